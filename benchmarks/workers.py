"""Packages in processes of their own, for benchmarks that interleave their calls; each may have its own interpreter."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


class Worker:
    """``python script --worker NAME ...``, which answers requests by :func:`serve`."""

    def __init__(self, script: str, name: str, python: str = sys.executable, arguments: Sequence[str] = ()):
        command = [python, script, "--worker", name, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()

    def _answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise SystemExit(f"{shlex.join(self.process.args)} ended; see its message above.")

    def call(self, *request) -> dict:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process, which frees its memory."""
        self.process.stdin.close()
        self.process.wait()


def serve(about: dict, answer: Callable[..., dict]) -> None:
    """In the worker: say what it is, then answer each request of :meth:`Worker.call`."""
    _reply(about)
    for line in sys.stdin:
        _reply(answer(*json.loads(line)))


def _reply(message: dict) -> None:
    print("@" + json.dumps(message), flush=True)


def peak_MB() -> float:
    """Most memory that this process held so far. Not ru_maxrss: that one begins at the peak of the parent process.

    As m3pot.train.fit.peak_memory on Linux, but peers run this in environments without m3pot.
    """
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def versions(*packages: str) -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in packages}


def write(path: Path, result: dict) -> None:
    """The result with the command and the environment, as JSON. The command does not name folders of this machine."""
    from m3pot.environment import describe
    from m3pot.io.checkpoint import write_atomically
    from m3pot.train.log import finite

    script, *arguments = sys.argv
    arguments = [Path(argument).name if os.sep in argument else argument for argument in arguments]
    command = shlex.join([Path(sys.executable).name, f"benchmarks/{Path(script).name}", *arguments])
    around = describe() | {"usable_cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    whole = finite({"command": command, "environment": around} | result)
    write_atomically(path, (json.dumps(whole, indent=1) + "\n").encode())
