"""The study file: what it may say, and the one line about each mistake."""

from __future__ import annotations

import pytest

from common.errors import UserError
from deploy.study.space import Choice, Range
from deploy.study.study_file import KEYS, load_study_file, study_name
from support.studies import write_study_file

SEARCH = 'preset = "cartpole"\n[search]\nsamples = 2\n'
SPACE = '[search.space]\n"learner.gamma" = { uniform = [0.9, 0.99] }\n'


def load(tmp_path, text: str):
    return load_study_file(write_study_file(tmp_path, text))


def test_a_whole_study_is_read(tmp_path):
    file, space = load(
        tmp_path,
        """
        presets = ["cartpole", "pong"]
        seeds = [1, 2]
        parallel = 3
        cores = 2
        [overrides]
        stop.env_steps = 1_000
        [variants.wide]
        network.hidden = [512]
        """,
    )
    assert file.all_presets == ("cartpole", "pong")
    assert (file.seeds, file.parallel, file.cores, space) == ((1, 2), 3, 2, {})
    assert file.overrides == {"stop": {"env_steps": 1_000}}
    assert file.variants == {"wide": {"network": {"hidden": [512]}}}
    assert study_name(file, tmp_path / "sweep.toml") == "sweep"


def test_a_search_is_read_with_quoted_and_with_dotted_keys(tmp_path):
    text = SEARCH + (
        "[search.space]\n"
        '"learner.learning_rate" = { loguniform = [1e-5, 1e-3] }\n'
        "learner.batch_size = { choice = [32, 64] }\n"
    )
    file, space = load(tmp_path, text)
    assert space == {
        "learner.learning_rate": Range("loguniform", (1e-5, 1e-3)),
        "learner.batch_size": Choice((32, 64)),
    }
    assert file.search.scheduler == "none"
    assert {"seeds", "search.samples", "run.inline"} <= set(KEYS)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("presets = [", "not a TOML file"),
        ("", "must name either preset or presets"),
        ('preset = "cartpole"\npresets = ["pong"]', "must name either preset or presets"),
        ('preset = "cartpole"\nsedes = [1]', "unknown key sedes; did you mean seeds?"),
        ('preset = "cartpole"\nseeds = []', "seeds=[]: must hold at least one seed"),
        ('preset = "cartpole"\nseeds = [1, 1]', "seeds=[1, 1]: must not hold a value twice"),
        ('preset = "cartpole"\nseeds = 3', "seeds=3: must be a list of whole numbers"),
        ('presets = "cartpole"', "presets=cartpole: must be a list of names of presets"),
        ('preset = "cartpole"\n[variants]\nwide = 3', "variants.wide=3: must be a table"),
        ('preset = "cartpole"\nvariants = [{a = "b"}]', 'variants=[{ a = "b" }]: must be a table'),
        ('preset = "cartpole"\n[variants.a]\nseed = 3', "variants.a: must not set seed"),
        ('preset = "cartpole"\nseeds = [1.5]', "seeds=[1.5]: must be a list of whole numbers"),
        ('preset = "cartpole"\ncores = 0', "cores=0: must be at least 1"),
        ('preset = "cartpole"\nparallel = 0', "parallel=0: must be a whole number of at least 1"),
        ('preset = "cartpole"\nname = "a/b"', "name=a/b: must begin with a letter or digit"),
        ('preset = "cartpole"\n[overrides]\nseed = 3', "overrides: must not set seed"),
        (
            'preset = "cartpole"\n[variants."a b"]',
            'variants."a b": the name must begin with a letter',
        ),
        ('preset = "cartpole"\n[run]\naddress = "auto"', "run.address=auto: needs inline=false"),
        (SEARCH, "search.space={}: must name at least one key"),
        (SEARCH.replace("samples = 2", "") + SPACE, "search.samples=none: must be a whole number"),
        (SEARCH + 'searcher = "grid"\n' + SPACE, "search.samples=2: must not be set with searcher"),
        (SEARCH + 'searcher = "hyperopt"\n' + SPACE, "search.searcher=hyperopt: must be random"),
        (SEARCH + "grace_env_steps = 9\n" + SPACE, "has no effect with scheduler=none"),
        (SEARCH + SPACE + "[variants.a]", "has both variants and search"),
        (SEARCH + "sampels = 3\n" + SPACE, "unknown key search.sampels; did you mean search.sam"),
        (SEARCH + SPACE.replace("gamma", "gama"), "unknown key learner.gama; did you mean learner"),
        (SEARCH + SPACE.replace("uniform", "unifrom"), "unknown distribution; did you mean unif"),
        (SEARCH + SPACE.replace("[0.9, 0.99]", "[0.9]"), "must be [from, to], numbers"),
        (SEARCH + SPACE.replace("[0.9, 0.99]", "[1, 0]"), "the first less than the second"),
        (SEARCH + SPACE.replace("uniform = [0.9", "loguniform = [0"), "must be [from, to] above 0"),
        (SEARCH + SPACE.replace("uniform", "randint"), "must be [from, to], whole numbers"),
        (SEARCH + SPACE.replace("{ uniform = [0.9, 0.99] }", "0.9"), "must be one word with its"),
        (
            SEARCH + SPACE.replace("uniform = [0.9, 0.99]", "choice = [true], uniform = [1.0]"),
            "learner.gamma={ choice = [true], uniform = [1.0] }: must be one word",
        ),
        (SEARCH + SPACE.replace("[0.9, 0.99]", "[]"), "must be a list with a value in it"),
        (SEARCH + SPACE.replace("learner.gamma", "seed"), "seed: is set by the key seeds"),
        (
            SEARCH.replace("samples = 2", 'searcher = "grid"') + SPACE,
            "must be a choice with searcher=grid",
        ),
        (
            SEARCH.replace('preset = "cartpole"', 'presets = ["cartpole", "pong"]')
            + 'searcher = "optuna"\n'
            + SPACE,
            "search.searcher=optuna compares scores, so there must be one preset",
        ),
        ("seeds = [1, 2]\n" + SEARCH + 'searcher = "optuna"\n' + SPACE, "optuna needs one seed"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(tmp_path, text, error):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert error in message
    assert message.startswith(f"{tmp_path / 'sweep.toml'}: ")
    assert "\n" not in message
