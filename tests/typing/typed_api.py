"""Types of the Python API, checked by mypy; never run.

Each `type: ignore` marks an error that mypy must find: mypy reports an ignore without an error.
"""

from pathlib import Path
from typing import assert_type

from common.config import Config
from deploy import Evaluation, Summary, evaluate, load_config, resume, train
from deploy.reporting.live_plot import LivePlot

config = load_config("cartpole", Path("mine.toml"), {"seed": 1})
assert_type(config, Config)
assert_type(train(config, "runs/a", inline=False), Summary)
assert_type(train(config, Path("runs/a"), view=LivePlot())["score"], float | None)
assert_type(resume("runs/a", {"seed": 2}, checkpoint="c", address="auto")["learner_steps"], int)
assert_type(evaluate(Path("runs/a"), 5, "latest", epsilon=0.1), Evaluation)
assert_type(evaluate("runs/a")["protocol"], dict[str, object])

load_config(overrides=["seed"])  # type: ignore[arg-type]
train("cartpole")  # type: ignore[arg-type]
train(config, None, True)  # type: ignore[call-arg]
resume(None)  # type: ignore[arg-type]
evaluate("runs/a", weights="newest")  # type: ignore[arg-type]
evaluate("runs/a")["mean"]  # type: ignore[typeddict-item]
config.seed = 2  # type: ignore[misc]
