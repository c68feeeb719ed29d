"""Processes that are forked from one with everything imported: the imports are paid for once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from support.paths import ROOT

SERVER = """
import importlib, json, os, sys, traceback
for name in sys.argv[1:]:
    importlib.import_module(name)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        failed = 1
        try:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for stream, path in ((1, order["out"]), (2, order["err"])):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
            os.environ |= order["env"]
            sys.argv = ["-c", *order["arguments"]]
            exec(order["code"], {"__name__": "__main__"})
            failed = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(failed)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Forks:
    """Runs Python code in one forked process at a time, each the leader of a process group."""

    def __init__(self, server: subprocess.Popen, folder: Path) -> None:
        self._server = server
        self.out, self.err = folder / "out", folder / "err"

    def begin(self, code: str, *arguments: str, **env: str) -> int:
        """Start the code with these arguments; its process id."""
        self.out.write_text("")
        order = {"code": code, "arguments": arguments, "env": env}
        order |= {"out": str(self.out), "err": str(self.err)}
        print(json.dumps(order), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())

    def wait(self) -> int:
        """Wait for the end of the process; its exit code as of `subprocess`."""
        return int(self._server.stdout.readline())


@contextmanager
def forks_of(folder: Path, *modules: str):
    """A `Forks` whose processes have imported these modules."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, *modules],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        try:
            yield Forks(server, folder)
        finally:
            for process in [*psutil.Process(server.pid).children(recursive=True), server]:
                with suppress(psutil.Error):
                    process.kill()
