"""The page in a real browser, without a network: its curves are drawn."""

from __future__ import annotations

import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from deploy.reporting.report import Options, write_report
from support.report_runs import made_up_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
               None)  # fmt: skip
SIZE = (1000, 1400)
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def browse(page, profile, *options):
    """Standard output of the browser on a page; a rule maps all names to nowhere."""
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={profile}", "--no-first-run", "--disable-extensions"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars"),
        *(f"--window-size={SIZE[0]},{SIZE[1]}", *options, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout.decode()


def near(pixels, colour):
    """Where a picture has about that colour, `[H, W]`."""
    return np.abs(pixels.astype(int) - colour).max(-1) <= 12


@pytest.mark.skipif(BROWSER is None, reason="no chromium: apt install chromium")
def test_a_browser_draws_the_curves_of_both_groups(tmp_path):
    for seed, scores in ((1, (None, 20.0, 90.0, 300.0)), (2, (None, 30.0, 200.0, 400.0))):
        made_up_run(tmp_path / "runs" / f"a{seed}", seed, scores)
        made_up_run(tmp_path / "runs" / f"b{seed}", seed, [s and s / 2 for s in scores],
                    {"learner": {"n_step": 1}})  # fmt: skip
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    write_report([tmp_path / "runs"], [page], Options(film=False))
    dom = browse(page, tmp_path / "profile", f"--screenshot={picture}", "--dump-dom")
    if not picture.exists():  # some versions do one of the two at a time
        browse(page, tmp_path / "profile", f"--screenshot={picture}")
    with Image.open(io.BytesIO(picture.read_bytes())) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == SIZE[0]
    for colour in (BLUE, ORANGE):
        rows, columns = np.nonzero(near(pixels, colour))
        # A legend's swatch is 36 pixels wide; a curve crosses its figure.
        assert np.ptp(columns) > SIZE[0] / 3, "curves over env steps and over seconds"
        assert np.ptp(rows) > 100, "the curve rises"
        assert len(rows) > 300
    if dom:
        assert len(re.findall(r'<svg[^>]*role="img"', dom)) == 2
        assert dom.count("<path") > 20
