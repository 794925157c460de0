"""Two data planes in a process of their own, with a control process of a few lines: what is measured without Python.

As a program it reads its set-up and then commands as JSON lines, and answers each with one. Whoever calls is admitted
as one of some components, one process after another, so that each can have an SVID of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.effort import PAIR_CORE, cpu_s, pinned, rss_mb

CALLEE = "tool"
HOST = f"{CALLEE}.crm"
PEER_NAME = f"{HOST}.hopseal.invalid"  # what a caller asks B for in TLS


@dataclass(frozen=True, slots=True)
class Planes:
    """The running process.

    Args:
        process: with pipes.
        answer: what it said when both data planes ran.
        folder: its files; ``client.pem`` and ``client.key`` are an SVID that B accepts.
    """

    process: subprocess.Popen[str]
    answer: dict[str, Any]
    folder: Path

    @property
    def target(self) -> str:
        return f"unix:{self.folder / 'a' / 'out.sock'}"

    @property
    def host(self) -> str:
        return HOST

    @property
    def port(self) -> int:
        return int(self.answer["port"])

    def cpu_s(self) -> float:
        return cpu_s([self.process.pid])

    def rss_mb(self) -> float:
        return rss_mb([self.process.pid])

    def set_policies(self, count: int) -> float:
        """Put ``count`` policies in force on both; how long one took, in seconds."""
        return float(ask(self.process, {"policies": count})["took_s"])


@contextmanager
def planes(folder: Path, origin: Path, *, components: int = 1) -> Iterator[Planes]:
    """Both data planes, on the core of the pairs.

    Args:
        folder: for their files.
        origin: the callee's socket.
        components: how many there are to call, each with an SVID of its own.
    """
    folder.mkdir()
    command = pinned(PAIR_CORE, [sys.executable, "-m", "bench.plane"])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", "."])}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        setup = {"folder": str(folder), "origin": str(origin), "components": components}
        yield Planes(process, ask(process, setup), folder)
    finally:
        process.terminate()
        process.communicate()


def ask(process: subprocess.Popen[str], command: dict[str, Any]) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the data planes were started without pipes")
    process.stdin.write(json.dumps(command) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"the data planes ended with {process.wait(5)}")
    said: dict[str, Any] = json.loads(answer)
    return said


def main() -> None:
    """The process itself."""
    setup = json.loads(sys.stdin.readline())
    import hopseal.log.reader  # noqa: F401, PLC0415 - Python's own share, which is not measured
    import svid_authority  # noqa: F401, PLC0415

    before = rss_mb([os.getpid()])
    from bench.plane_nodes import Nodes  # noqa: PLC0415 - the rest is

    nodes = Nodes(Path(setup["folder"]), Path(setup["origin"]), setup["components"])
    say(port=nodes.start(), python_mb=before)
    for line in sys.stdin:
        took_s = nodes.set_policies(json.loads(line)["policies"])
        say(took_s=took_s)


def say(**members: float) -> None:
    print(json.dumps(members), flush=True)


if __name__ == "__main__":
    main()
