"""`raydqn export`: the policy of a run as one file for other programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common.errors import UserError
from common.text import printable
from deploy.cli.arguments import path, run_folder
from deploy.cli.command import RUN, RUN_FOLDER, Command, Parser
from deploy.cli.evaluate import add_weights
from deploy.cli.overrides import Overrides

ENDS = {"safetensors": ".safetensors", "onnx": ".onnx", "torchscript": ".pt"}


def _add_export(parser: Parser) -> None:
    parser.add_argument("run_folder", type=run_folder, metavar=RUN, help=RUN_FOLDER)
    parser.add_argument(
        "--format",
        choices=tuple(ENDS),
        default="safetensors",
        help="weights alone, or a program: ONNX (extra `export`) or TorchScript (default: "
        "safetensors)",
    )
    add_weights(parser)
    parser.add_argument(
        "--out",
        type=path,
        metavar="FILE",
        help="file to write (default: policy.safetensors, .onnx or .pt in RUN)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, with the contract")


def _export(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.reporting.export import export, write
    from deploy.runs.folder import RunFolder

    folder = RunFolder.open(options.run_folder)
    end = ENDS[options.format]
    out: Path = options.out or options.run_folder / f"policy{end}"
    if out.suffix != end:
        raise UserError(f"--out={out}: must end in {end}, for --format {options.format}")
    if not out.parent.is_dir():
        raise UserError(f"--out={out}: there is no folder {out.parent}; make it first")
    if is_of_a_run(out) and not out.name.startswith("policy"):
        raise UserError(
            f"--out={out}: is in the folder of a run, whose files it may replace; name a file "
            f"elsewhere, or leave --out away, for policy{end}"
        )
    content, contract = export(folder, options.format, options.weights)
    write(content, out)
    if options.json:
        print(json.dumps({"file": str(out), "bytes": len(content), **contract}, default=str))
        return 0
    shape = ", ".join(map(str, contract["input"]["shape"]))
    print(f"policy: {printable(out)} ({len(content) / 1e6:.2f} MB), {contract['weights']}")
    print(f"input: {contract['input']['name']} [{shape}] {contract['input']['dtype']}")
    print(f"output: q [batch, {contract['output']['shape'][1]}] float32; act by the largest")
    return 0


def is_of_a_run(file: Path) -> bool:
    """Whether a file is, or would be, in the folder of a run or below it."""
    from deploy.runs.folder import is_run

    return any(map(is_run, file.resolve().parents))


COMMANDS = (
    Command(
        "export",
        "write the policy of a run as one file",
        _export,
        _add_export,
        more="Write the greedy policy of a run as one file for other programs. Its metadata says "
        "how an observation is made.",
    ),
)
