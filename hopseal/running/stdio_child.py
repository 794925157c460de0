"""A server that speaks on its standard input and output, watched from its start to its end.

Owns: the process, its lines, and noticing that it is another program now. Does not own: what the lines mean.

What it executes when it first says something is what counts: launchers (``#!/usr/bin/env``, ``npx``) execute the
program proper before it can. From then on the process is looked at before every line that it is given and after every
line that it gave: the inode that it executes, and the auxiliary vector that the kernel writes anew at every exec, also
of the same program. What that does not see: programs that it starts, or code that it loads; and a program that turns
address randomisation off before it executes itself again.
Source: proc(5) ``/proc/PID/exe`` and ``/proc/PID/auxv``; MCP, "stdio" and its shutdown.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hopseal.errors import DeniedError, InvalidError
from hopseal.running.mcp_messages import MAX_MESSAGE_BYTES

_PR_SET_PDEATHSIG: Final = 1
STOP_S: Final = 2.0  # for each step of the shutdown
WATCH_S: Final = 1.0


class ChildGoneError(DeniedError):
    """The child is not what was started any more (codes ``child_exited``, ``child_executed``, ``child_garbled``)."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One program in one process, from an exec to the next."""

    device: int
    inode: int
    auxv: bytes


def read_execution(pid: int) -> Execution:
    """What the process executes now; raises ``OSError`` if it is gone."""
    found = os.stat(f"/proc/{pid}/exe")  # noqa: PTH116 - a magic link, not a path
    return Execution(found.st_dev, found.st_ino, Path(f"/proc/{pid}/auxv").read_bytes())


class StdioChild:
    """One child; make it with :meth:`start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._execution: Execution | None = None
        self._is_stopping = False
        self._writing = asyncio.Lock()

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> StdioChild:
        """The command, started; its standard error is ours.

        Raises:
            InvalidError: it cannot be executed (code ``command_not_found``).
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                limit=MAX_MESSAGE_BYTES,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        except OSError as error:
            raise InvalidError("command_not_found", f"{command[0]} cannot be executed: {error.strerror}") from error
        return cls(process)

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def check(self) -> None:
        """Return only if the child lives and executes what it did when it first said something.

        Raises:
            ChildGoneError: it does not.
        """
        if self._process.returncode is not None:
            raise _gone("child_exited", f"the server ended with {self._process.returncode}")
        current = self._look()
        if self._execution is not None and current != self._execution:
            raise _gone("child_executed", f"the server executed another program, inode {current.inode}")

    def _look(self) -> Execution:
        try:
            return read_execution(self.pid)
        except OSError as error:
            raise _gone("child_exited", "the server ended") from error

    async def send(self, line: bytes) -> None:
        """Give it one line; raises :class:`ChildGoneError`."""
        self.check()
        stdin = self._process.stdin
        async with self._writing:  # a line must not be cut by another
            try:
                if stdin is None:
                    raise BrokenPipeError
                stdin.write(line + b"\n")
                await stdin.drain()
            except (ConnectionError, RuntimeError) as error:
                raise _gone("child_exited", "the server does not read any more") from error

    async def lines(self) -> AsyncIterator[bytes]:
        """Every line that it writes until we stop it.

        Raises:
            ChildGoneError: it ended by itself, executed another program, or wrote a line without end.
        """
        stdout = self._process.stdout
        while stdout is not None:
            try:
                line = await asyncio.wait_for(stdout.readline(), WATCH_S)
            except TimeoutError:
                if self._is_stopping:
                    return
                self.check()
                continue
            except ValueError as error:
                why = f"the server wrote a line of more than {MAX_MESSAGE_BYTES} bytes"
                raise _gone("child_garbled", why) from error
            if self._is_stopping:
                return
            if not line:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), STOP_S)
                code = self._process.returncode
                raise _gone("child_exited", "the server closed its output" if code is None else f"it ended with {code}")
            self.check()
            self._execution = self._execution or self._look()
            yield line.rstrip(b"\r\n")

    async def stop(self) -> None:
        """End it as MCP says: close its input, then ask, then kill, and whatever it started with it."""
        self._is_stopping = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_S)
                break
            self._signal(number)
        await self._process.wait()
        self._signal(signal.SIGKILL)  # what is left of its session

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _gone(code: str, why: str) -> ChildGoneError:
    return ChildGoneError(code, why, remedy="see what it wrote before, and start hopseal serve-stdio again")
