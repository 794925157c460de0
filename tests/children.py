"""Real child processes for tests: a few lines of Python that report, wait, and are always reaped."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

READY_TIMEOUT_S = 20.0


class Child:
    """A process that runs ``code`` and is told apart by what it prints, line by line."""

    def __init__(self, code: str, *args: str, **popen: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-u", "-c", code, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **popen,
        )
        self.pid = self.process.pid

    def read_line(self) -> str:
        """The next line that the process prints; fails the test when it ends or stays silent."""
        stdout = self.process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], READY_TIMEOUT_S)
        line = stdout.readline() if ready else b""
        if not line:
            raise AssertionError(f"the child said nothing; exit status {self.process.poll()}")
        return line.decode().rstrip("\n")

    def tell(self, line: str = "") -> None:
        """Give the process one line on its standard input."""
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(f"{line}\n".encode())
        stdin.flush()

    def end(self) -> None:
        """Kill the process and reap it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@contextlib.contextmanager
def child(code: str, *args: str, ready: bool = True, **popen: Any) -> Iterator[Child]:
    """A child that is killed and reaped at the end; with ``ready``, once it printed its first line.

    ``code`` should print a line and then read from standard input, so that it waits.
    """
    process = Child(code, *args, **popen)
    try:
        if ready:
            process.read_line()
        yield process
    finally:
        process.end()


def open_descriptors() -> int:
    """How many descriptors this process has open; compare with ``<=``, for what earlier tests left may close yet."""
    return len(os.listdir("/proc/self/fd"))


def as_user(uid: int, gid: int, groups: tuple[int, ...] = ()) -> str:
    """Code that gives the root rights away for good; the interpreter itself may be readable by root only."""
    ids = [f"os.{name}({value}, {value}, {value})" for name, value in (("setresgid", gid), ("setresuid", uid))]
    return "; ".join(["import os", f"os.setgroups({list(groups)})", *ids]) + "\n"
