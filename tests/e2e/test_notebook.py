"""The example notebook runs from its first cell to its last."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.paths import ROOT

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
CELL_TIMEOUT_S = 240


@pytest.fixture(scope="module")
def written() -> Any:
    """The notebook as it is committed."""
    for module in ("nbclient", "nbformat", "ipykernel"):
        if find_spec(module) is None:
            reason = f"{module} is not installed: pip install 'raydqn[notebook]'"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(written: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The notebook with its outputs, and the folder it ran in."""
    from copy import deepcopy

    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("notebook")
    notebook = deepcopy(written)
    with pytest.MonkeyPatch.context() as patch:
        # This environment's kernel and these sources, whatever the user has set up at home.
        patch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("PYTHONPATH", str(ROOT))
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            kernel_name="python3",
            allow_errors=True,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute()
    return notebook, folder


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


def test_it_is_committed_without_outputs(written: Any) -> None:
    for cell in code_cells(written):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_no_cell_fails_or_warns(executed: tuple[Any, Path]) -> None:
    notebook, _ = executed
    problems = [
        f"{cell.id}: {output.get('evalue') or output.get('text')}"
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert problems == []
    assert all(cell.execution_count for cell in code_cells(notebook))


def test_the_kernel_is_the_one_of_this_environment(executed: tuple[Any, Path]) -> None:
    _, folder = executed
    from jupyter_client.kernelspec import KernelSpecManager

    command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    assert Path(command).name.startswith("python")
    assert command in ("python", "python3", sys.executable)
    assert (folder / "runs").is_dir()


def test_the_live_plot_is_one_picture(executed: tuple[Any, Path]) -> None:
    notebook, _ = executed
    (cell,) = [cell for cell in code_cells(notebook) if "view=LivePlot(" in cell.source]
    pictures = [o for o in cell.outputs if o.output_type == "display_data"]
    assert len(pictures) == 1
    with Image.open(io.BytesIO(base64.b64decode(pictures[0].data["image/png"]))) as image:
        assert image.width > 800
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50
    assert "stop_reason     learner_steps" in printed(cell)


def test_the_last_evaluation_prints_a_score(executed: tuple[Any, Path]) -> None:
    notebook, folder = executed
    text = printed(code_cells(notebook)[-1])
    found = re.search(r"^score (\d+\.\d) ± \d+\.\d over 50 episodes, ε = 0,", text)
    assert found, text
    assert 8 <= float(found[1]) <= 500
    (run,) = (folder / "runs").iterdir()
    assert (run / "summary.json").is_file()
