"""The command line: what it takes, and what it says to mistakes."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path

import gymnasium as gym
import pytest

import deploy.launch.run_path as run_path_module
import deploy.runs.folder as run_folder_module
from common.config_toml import build, merge
from common.errors import UserError
from deploy.cli.arguments import positive
from deploy.cli.main import main
from deploy.cli.overrides import split_overrides
from deploy.control import chaos as chaos_module
from deploy.control.chaos import chaos
from deploy.launch.presets import make_config, preset_names
from deploy.launch.train import train
from deploy.runs.folder import CONTROL, RunFolder
from support.program import TINY, TINY_OPTIONS


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    config = make_config("cartpole", overrides=merge(TINY, {"stop": {"learner_steps": 120}}))
    train(config, run)
    return run


def test_a_number_of_an_option_may_have_underscores_as_one_of_a_key():
    assert positive("100_000") == 100_000


def mistake(capsys, *arguments: str) -> str:
    """The one line that a mistake is answered with."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("raydqn: error: ")
    return lines[0]


TRAIN = ("train", "cartpole", "--inline", "--run-dir")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--env.id", "CartPol-v1"], ["CartPol-v1", "CartPole-v1"]),
        (["--env.id", "nowhere_to_be_found:X-v0"], ["nowhere_to_be_found"]),
        (["--env.id", "Pendulum-v1"], ["Pendulum-v1", "Discrete"]),
        (["--learner.batch-sise", "3"], ["--learner.batch-sise", "mean --learner.batch-size?"]),
        (["--lerner.batch-size", "3"], ["--lerner.batch-size", "mean --learner.batch-size?"]),
        (["--batch-size", "3"], ["--batch-size: unknown", "mean --learner.batch-size?"]),
        (["--batch-size=3"], ["--batch-size=3: unknown", "mean --learner.batch-size?"]),
        (["--learner.batch-size", "many"], ["learner.batch_size=many: must be a whole number"]),
        (["--learner.batch-size", "0"], ["learner.batch_size=0: must be at least 1"]),
        (["--learner.momentum", "0"], ["--learner.momentum: unknown key"]),
        (["--learner.batch-size"], ["learner.batch-size", "needs a value"]),
        (["--network.kind", "nature-cnn"], ["nature-cnn", "vector"]),
        (["--network.kind", "transformer"], ["network.kind=transformer: must be mlp, nature-cnn"]),
        (["--network.hidden", "64", "0"], ["hidden=[64, 0]"]),
        (["--replay.capacity", "100"], ["replay.capacity=100", "learner.batch_size=256"]),
        (["--learner.warmup-transitions", "200000"], ["warmup_transitions=200000", "capacity"]),
        (["--learner.samples-per-insert-error", "10"], ["samples_per_insert_error=10", "forever"]),
        (["--learner.device", "cuda:7"], ["learner.device=cuda:7"]),
        (["--learner.device", "tpu9"], ["learner.device=tpu9"]),
        (["--learner.gamma", "1.5"], ["learner.gamma=1.5: must be at most 1"]),
        (["--learner.gamma", "nan"], ["learner.gamma"]),
        (["--env.crop", "0.5", "0", "0.2", "1"], ["crop", "left < right"]),
        (["--env.observation", "pixels", "--network.kind", "nature-cnn",
          "--env.width", "20"], ["36", "84×20"]),
        (["--env.id", "Acrobot-v1", "--env.observation", "pixels", "--env.render-width", "100"],
         ["render_width=100", "Acrobot-v1"]),
        (["--env.kwargs", "{no_such=1}"], ["CartPole-v1", "no_such"]),
        (["--frobnicate"], ["--frobnicate", "raydqn train --help"]),
        (["--inlin"], ["--inlin", "did you mean --inline?"]),
        (["--seed", "-1"], ["seed=-1"]),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line_and_leaves_nothing(tmp_path, capsys, options, says):
    run = tmp_path / "run"
    line = mistake(capsys, *TRAIN, str(run), *options)
    for word in says:
        assert word in line
    assert not run.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly\n\x1b[31m",),
        ("train", "cart\n\x1b[31mpole"),
        ("status", "no\n\x1b[31mrun"),
        ("evaluate", "no\n\x1b[31mrun"),
        ("resume", "no\n\x1b[31mrun"),
        ("plot", "no\n\x1b[31mrun"),
        ("cluster", "check", "no\n\x1b[31mfile"),
        ("config", "--env.id", "no\n\x1b[31mid:x"),
        ("train", "--no\n\x1b[31m", "x"),
        ("train", "--learner.no\n\x1b[31m", "x"),
    ],
)
def test_a_name_of_any_characters_is_shown_in_one_line(capsys, arguments):
    main(list(arguments))
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    if arguments[0] != "config":  # prints TOML, which has its own escapes
        assert r"\n\x1b[31m" in err
        assert len(err.splitlines()) == 1


def test_unknown_presets_and_commands_are_named(capsys):
    assert "cartpol" in mistake(capsys, "train", "cartpol")
    assert "did you mean cartpole" in mistake(capsys, "train", "cartpol")
    assert "fly" in mistake(capsys, "fly")
    assert "trian: unknown command; did you mean train?" in mistake(capsys, "trian", "cartpole")
    assert "learner.batch_size" in mistake(capsys, "plot", "x", "--learner.batch-size", "3")


def test_configuration_files_with_mistakes_are_named(tmp_path, capsys):
    file = tmp_path / "mine.toml"
    config = ("config", "cartpole", "--config", str(file))
    assert "cannot be read" in mistake(capsys, *config)
    file.write_text("learner = [")
    assert "not a TOML file" in mistake(capsys, *config)
    file.write_text("[learner]\nbatch_sise = 3\n")
    for over in ((), ("--seed", "3")):
        line = mistake(capsys, *config, *over)
        assert str(file) in line
        assert "did you mean learner.batch_size" in line
    file.write_text("learner = 3\n")
    assert "learner=3" in mistake(capsys, *config)
    file.write_bytes(b"\xff\xfe")
    assert "not a TOML file" in mistake(capsys, *config)


def test_a_run_folder_that_holds_something_is_left_alone(tmp_path, capsys, finished_run):
    (tmp_path / "thesis.tex").write_text("precious")
    assert "is not an empty folder" in mistake(capsys, *TRAIN, str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    assert "resume it" in mistake(capsys, *TRAIN, str(finished_run))
    file = tmp_path / "file"
    file.write_text("")
    assert "is not an empty folder" in mistake(capsys, *TRAIN, str(file))


@pytest.mark.parametrize("command", ["resume", "evaluate", "plot"])
def test_a_folder_that_is_no_run_is_named(tmp_path, capsys, command):
    assert "not a run folder" in mistake(capsys, command, str(tmp_path))
    assert "not a run folder" in mistake(capsys, command, str(tmp_path / "nowhere"))
    assert not list(tmp_path.iterdir())


def copy_of(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


@pytest.mark.parametrize(
    "file", ["learner.safetensors", "state.json", "shard-0.rdqn", "manifest.json"]
)
def test_a_checkpoint_that_is_cut_off_is_refused(tmp_path, capsys, finished_run, file):
    run = copy_of(finished_run, tmp_path)
    (checkpoint,) = (run / "checkpoints").glob("*-step-*")
    data = (checkpoint / file).read_bytes()
    (checkpoint / file).write_bytes(data[: len(data) // 2])
    for command in (("resume", str(run), "--inline"), ("evaluate", str(run), "--weights=latest")):
        assert str(checkpoint) in mistake(capsys, *command)


def test_best_weights_that_are_damaged_are_refused(tmp_path, capsys, finished_run):
    run = copy_of(finished_run, tmp_path)
    path = run / "best.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    assert "best.safetensors" in mistake(capsys, "evaluate", str(run))


def test_a_run_without_checkpoint_says_so(tmp_path, capsys, finished_run):
    run = copy_of(finished_run, tmp_path)
    shutil.rmtree(run / "checkpoints")
    assert "holds no checkpoint" in mistake(capsys, "resume", str(run), "--inline")


def test_weights_of_another_network_or_environment_are_refused(tmp_path, capsys, finished_run):
    run = copy_of(finished_run, tmp_path)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("hidden = [32]", "hidden = [16]"))
    assert "another network" in mistake(capsys, "evaluate", str(run))
    assert "another network" in mistake(capsys, "resume", str(run), "--inline")
    (run / "config.toml").write_text(text.replace("CartPole-v1", "Acrobot-v1"))
    assert "best weights are of CartPole-v1" in mistake(capsys, "evaluate", str(run))
    latest = ("evaluate", str(run), "--weights", "latest")
    for command in (latest, ("resume", str(run), "--inline")):
        assert "env.id=Acrobot-v1: the checkpoint" in mistake(capsys, *command)


def test_evaluate_plays_the_episodes_it_was_asked_for(capsys, finished_run):
    assert main(("evaluate", str(finished_run), "--episodes", "7", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["episodes"] == 7
    assert result["epsilon"] == 0
    assert 8 <= result["score"] <= 500
    assert result["min"] <= result["score"] <= result["max"]
    assert result["protocol"]["env"] == "CartPole-v1"
    assert main(("evaluate", str(finished_run), "--episodes", "5", "--epsilon", "1")) == 0
    assert "ε = 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("scale x --actors 0", "--actors=0: must be a whole number of at least 1, or auto"),
        ("scale x --actors", "--actors: needs a value"),
        ("scale x", "missing: --actors"),
        ("evaluate", "missing: RUN"),
        ("evaluate x --weights new", "--weights=new: must be one of best, latest"),
        ("evaluate x --epsilon 2", "--epsilon=2: must be a number from 0 to 1"),
        ("bench cartpole --repeat 4", "--repeat=4: must be a whole number from 1 to 3"),
        ("bench train --env-steps 1__0", "--env-steps=1__0: must be a whole number of at least 1"),
        ("bench cartpole --algorithm none", "algorithm none: unknown (known: ape-x, c51"),
        ("bench actors --env", "--env: needs a value (see raydqn bench actors --help)"),
        ("train a b", "b: one word too many (see raydqn train --help)"),
        ("bench nothing", "NAME=nothing: must be one of actors, cartpole, cartpole-pixels"),
        ("chaos x --draw-seed y", "--draw-seed=y: must be a whole number"),
        ("train --inline=3", "--inline=3: takes no value"),
        ("resume x --inline --ray", "--ray: cannot be combined with --inline"),
        ("resume ~no-such-user/x", "~no-such-user/x: there is no user of that name"),
        ("evaluate ~no-such-user/x", "~no-such-user/x: there is no user of that name"),
        ("status ~no-such-user/x", "~no-such-user/x: there is no user of that name"),
    ],
)
def test_a_wrong_option_gets_one_line_in_our_own_words(capsys, line, says):
    assert mistake(capsys, *line.split()).startswith(f"raydqn: error: {says}")


def test_chaos_prints_the_seed_of_its_draws_and_draws_another_each_time(tmp_path, finished_run):
    folder = RunFolder.open(copy_of(finished_run, tmp_path))
    drawn = []
    for seed in (7, 7, 8):
        with folder.lock():
            lines = chaos(folder, 0.01, ["actor", "shard", "learner"], seed)
            assert f"--draw-seed {seed}" in next(lines)
            one = []
            for _ in range(4):
                assert next(lines).startswith("requested: kill one ")
                one.append((folder.path / CONTROL).read_text())
                (folder.path / CONTROL).unlink()
        drawn.append(one)
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_seed_of_chaos_is_random_unless_given(monkeypatch, finished_run, capsys):
    seeds = []
    monkeypatch.setattr(chaos_module, "chaos", lambda *args: seeds.append(args[-1]) or [])
    for more in ((), (), ("--draw-seed", "5")):
        assert main(("chaos", str(finished_run), *more)) == 0
    assert seeds[0] != seeds[1]
    assert seeds[2] == 5
    capsys.readouterr()


def test_a_run_that_has_ended_names_one_command_for_each_line(tmp_path, capsys):
    run = tmp_path / "run"
    options = [*TINY_OPTIONS, "--stop.learner-steps", "20", "--stop.score", "none"]
    assert main((*TRAIN, str(run), *options)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"to evaluate: raydqn evaluate {run}" in lines
    assert f"to plot:     raydqn plot {run}" in lines
    assert f"to report:   raydqn report {run}" in lines


def test_the_documents_name_every_file_of_a_run(finished_run):
    root = Path(__file__).parents[4]
    described = (root / "docs" / "architecture.md").read_text().partition("## The run folder")[2]
    readme = (root / "README.md").read_text()
    for file in finished_run.iterdir():
        name = file.name.partition(".tf")[0]
        assert f"`{name}" in described, name
        assert name == ".lock" or f"\n    {name}" in run_folder_module.__doc__, name
        assert f"`{name}" in readme or name in (".lock", "lives", "events.out"), name


@pytest.mark.parametrize("option", [("--episodes", "0"), ("--episodes", "x"), ("--epsilon", "2")])
def test_evaluate_refuses_impossible_numbers(capsys, finished_run, option):
    assert option[0] in mistake(capsys, "evaluate", str(finished_run), *option)


def test_evaluate_films_an_episode(tmp_path, capsys, finished_run):
    from PIL import Image

    gif = tmp_path / "film.gif"
    options = ("evaluate", str(finished_run), "--episodes", "1", "--gif", str(gif), "--json")
    assert main(options) == 0
    result = json.loads(capsys.readouterr().out)
    with Image.open(gif) as film:
        assert film.size == (600, 400)
        # Pillow merges pictures that are equal.
        assert 1 < film.n_frames <= result["gif_pictures"]
    missing = ("evaluate", str(finished_run), "--episodes", "1", "--gif", "/nowhere/film.gif")
    assert "--gif=/nowhere/film.gif" in mistake(capsys, *missing)


def test_every_preset_is_sound_and_its_configuration_reads_back(capsys):
    assert preset_names() == [
        *("acrobot", "apex-cluster", "atari", "atari-sticky"),
        *("cartpole", "cartpole-pixels", "cartpole-thrifty", "lunar-lander"),
        *("minatar-asterix", "minatar-breakout", "minatar-freeway", "minatar-seaquest"),
        *("minatar-space-invaders", "mountain-car", "pong"),
    ]
    for name in preset_names():
        assert main(("config", name)) == 0
        text = capsys.readouterr().out
        assert build(tomllib.loads(text)) == make_config(name)
        for section in ("env", "learner", "replay"):
            assert f"[{section}]" in text
    assert main(("presets",)) == 0
    assert "cartpole-pixels" in capsys.readouterr().out


def test_every_key_of_the_configuration_is_explained(capsys):
    from common.config_toml import KEYS

    assert main(("config",)) == 0
    text = capsys.readouterr().out
    for key, info in KEYS.items():
        assert info.description, key
        assert f"{key.rpartition('.')[2]} =" in text
        assert info.description in text


def test_a_none_of_the_command_line_stays_one_in_the_file_of_the_run(capsys):
    assert main(("config", "cartpole", "--checkpoint.every-s", "none")) == 0
    text = capsys.readouterr().out
    assert 'every_s = "none" # on Ray: seconds between them' in text
    assert build(tomllib.loads(text)).checkpoint.every_s is None


def test_a_printed_configuration_laid_over_its_preset_is_the_same(tmp_path, capsys):
    assert main(("config", "cartpole", "--stop.score", "none")) == 0
    text = capsys.readouterr().out
    (tmp_path / "mine.toml").write_text(text)
    assert main(("config", "cartpole", "--config", str(tmp_path / "mine.toml"))) == 0
    assert capsys.readouterr().out == text


def test_keys_come_from_preset_then_file_then_command_line(tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text("seed = 5\n[learner]\nbatch_size = 64\nlearning_rate = 0.01\n")
    over = ("--learner.batch-size", "128", "--config", str(file))
    assert main(("config", "cartpole", *over)) == 0
    config = build(tomllib.loads(capsys.readouterr().out))
    assert config.seed == 5
    assert config.learner.batch_size == 128
    assert config.learner.learning_rate == 0.01
    assert config.learner.n_step == make_config("cartpole").learner.n_step


@pytest.mark.parametrize(
    ("option", "value"),
    [("replay.compression", "none"), ("stop.score", None), ("env.crop", None)],
)
def test_none_is_a_value_of_some_keys_and_the_absence_of_one_for_others(option, value):
    overrides, _ = split_overrides([f"--{option}", "none"])
    assert attrgetter(option)(make_config("cartpole", overrides=overrides)) == value


def test_none_is_a_text_below_the_keywords_of_an_environment():
    overrides, _ = split_overrides(["--env.kwargs.mode", "None", "--stop.score", "None"])
    config = make_config("cartpole", overrides=overrides)
    assert config.env.kwargs == {"mode": "None"}
    assert config.stop.score is None


def test_overrides_are_taken_out_of_a_command_line():
    line = (
        "train --learner.batch-size 64 cartpole --seed=3 --inline --network.hidden 64 32 "
        "--env.id CartPole-v1 --stop.score none --env.kwargs {a=1} --env.crop=[0,0,1,0.5] "
        "--learner.double false"
    )
    overrides, rest = split_overrides(line.split())
    assert rest == ["train", "cartpole", "--inline"]
    assert overrides == {
        "seed": 3,
        "learner": {"batch_size": 64, "double": False},
        "network": {"hidden": [64, 32]},
        "env": {"id": "CartPole-v1", "kwargs": {"a": 1}, "crop": [0, 0, 1, 0.5]},
        "stop": {"score": "none"},
    }
    with pytest.raises(UserError, match="needs a value"):
        split_overrides(["--seed", "--inline"])


def test_packages_of_the_same_name_elsewhere_are_noticed(tmp_path, capsys, monkeypatch):
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "learner", raising=False)
    saved = {name: m for name, m in sys.modules.items() if name.startswith("learner.")}
    line = mistake(capsys, "presets")
    assert "package learner is imported from" in line
    sys.modules.update(saved)


BROKEN = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Broken(CartPoleEnv):
    def __init__(self, at, after):
        super().__init__()
        self.at, self.left = at, after

    def reset(self, **kwargs):
        if self.at == "reset":
            raise KeyError("no track")
        return super().reset(**kwargs)

    def step(self, action):
        self.left -= 1
        if self.at == "step" and self.left < 0:
            raise ZeroDivisionError("no fuel")
        return super().step(action)

gym.register(__name__.replace("_", "") + "-v0", Broken, max_episode_steps=50)
"""


@pytest.mark.parametrize(("at", "error"), [("reset", "KeyError"), ("step", "ZeroDivisionError")])
def test_an_environment_that_raises_at_once_gets_one_line_and_leaves_nothing(
    tmp_path, capsys, monkeypatch, at, error
):
    module = f"broken_at_once_{at}"
    (tmp_path / f"{module}.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    kwargs = f'{{at="{at}", after=0}}'
    env_id = f"{module}:{module.replace('_', '')}-v0"
    options = ("--env.id", env_id, "--env.kwargs", kwargs)
    line = mistake(capsys, *TRAIN, str(tmp_path / "run"), *options)
    assert f"{at}() raised {error}" in line
    assert f"{module}.py, line" in line
    assert not (tmp_path / "run").exists()


def test_an_environment_that_raises_later_ends_an_inline_run_with_its_own_lines(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "broken_later.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    options = ("--env.id", "broken_later:brokenlater-v0", "--env.kwargs", '{at="step", after=200}')
    code = main((*TRAIN, str(tmp_path / "run"), *options, *TINY_OPTIONS))
    err = capsys.readouterr().err.splitlines()
    assert code == 1
    assert err[-1].startswith("raydqn: failed: env.id=broken_later:brokenlater-v0: step() raised")
    assert "broken_later.py, line" in err[-1]
    assert 'raise ZeroDivisionError("no fuel")' in "".join(err[:-1])
    assert "/gymnasium/" not in "".join(err)


def test_an_environment_that_raises_while_it_is_evaluated_is_told_with_its_own_lines(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "broken_evaluated.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    kwargs = {"at": "step", "after": 1_000_000}
    env = {"id": "broken_evaluated:brokenevaluated-v0", "kwargs": kwargs}
    over = {"env": env, "stop": {"learner_steps": 20}}
    run = tmp_path / "run"
    train(make_config("cartpole", overrides=merge(TINY, over)), run)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("1000000", "3"))
    assert main(("evaluate", str(run), "--episodes", "1")) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("raydqn: failed: env.id=broken_evaluated:brokenevaluated-v0: step()")
    assert [line.strip() for line in err[1:-1]] == ['raise ZeroDivisionError("no fuel")']
    sys.modules.pop("broken_evaluated")
    del gym.registry["brokenevaluated-v0"]


def test_a_film_that_could_not_be_written_is_refused_before_the_work(capsys, finished_run):
    film = ("evaluate", str(finished_run), "--gif")
    assert "must end in .gif" in mistake(capsys, *film, "film.png")
    assert "there is no folder /nowhere" in mistake(capsys, *film, "/nowhere/film.gif")


def test_a_list_ends_where_the_numbers_end():
    overrides, rest = split_overrides(["--network.hidden", "64", "32", "cartpole", "--inline"])
    assert overrides == {"network": {"hidden": [64, 32]}}
    assert rest == ["cartpole", "--inline"]


@pytest.mark.parametrize(
    ("options", "name"),
    [((), "cartpole-"), (("--env.id", "Acrobot-v1"), "acrobot-v1-")],
)
def test_runs_are_named_after_what_they_train_on(tmp_path, monkeypatch, capsys, options, name):
    monkeypatch.chdir(tmp_path)
    stop = ("--stop.learner-steps", "5", "--stop.score", "none")
    assert main(("train", "cartpole", "--inline", *options, *TINY_OPTIONS, *stop)) == 0
    assert [p.name.startswith(name) for p in (tmp_path / "runs").iterdir()] == [True]
    capsys.readouterr()


def test_runs_that_begin_in_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    class Stopped(run_path_module.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 1, 12, 0, 0)

    monkeypatch.setattr(run_path_module, "datetime", Stopped)
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(run_path_module.new_run_path, ["cartpole"] * 8))
    assert len(set(paths)) == 8
    assert Path("runs/cartpole-20260101-120000") in paths
    assert all(path.is_dir() for path in paths)


@pytest.mark.parametrize("given", [(), ("--run-dir", "mine")])
def test_a_start_that_fails_leaves_no_folder_of_ours(tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    assert "CartPol-v1" in mistake(capsys, "train", "--inline", "--env.id", "CartPol-v1", *given)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(UserError, match="CartPol-v1"):
        train(make_config("cartpole", overrides={"env": {"id": "CartPol-v1"}}))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_for_runs_that_cannot_be_made_is_a_users_mistake(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("")
    assert "runs/cartpole-" in mistake(capsys, "train", "cartpole", "--inline")
