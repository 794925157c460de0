"""A program that is run in our place: its environment, its signals and its end.

Owns: starting it so that it and its orphans end up below us, passing signals on, and its exit code.
Does not own: what it is told about the bridge's address (``environment_of`` only writes it down).
Source: prctl(2) PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER; wait(2).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from hopseal.errors import InvalidError

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PROXY_VARIABLES: Final = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
# A terminal sends these to its whole foreground group, so the program has them already.
_OF_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, *_OF_TERMINAL)
EXIT_NOT_FOUND, EXIT_NOT_EXECUTABLE, EXIT_OF_SIGNAL = 127, 126, 128  # as shells have them


def environment_of(base: Mapping[str, str], proxy: str, direct: Sequence[str] = ()) -> dict[str, str]:
    """``base`` with everything that makes programs use ``proxy``.

    Args:
        base: the environment to change; what it says of proxies is replaced.
        proxy: URL of the bridge.
        direct: hosts that are called directly, beside this machine itself.
    """
    found = dict(base)
    for name in _PROXY_VARIABLES:
        found[name] = found[name.upper()] = proxy
    found["no_proxy"] = found["NO_PROXY"] = ",".join((*_LOOPBACK, *direct))
    found["NODE_USE_ENV_PROXY"] = "1"
    return found


def adopt_orphans() -> None:
    """From now on, descendants whose parent ends become our children."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class Child:
    """The program, started; one for the process, in its main thread.

    Args:
        command: of which the first is looked up in ``PATH``.
        environment: the whole of it.
        prepare: run in the child before the program.

    Raises:
        InvalidError: it cannot be executed (codes ``command_not_found``, ``command_not_executable``).
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], prepare: Callable[[], None] | None = None
    ) -> None:
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        libc, parent = ctypes.CDLL(None), os.getpid()

        def before_exec() -> None:
            if prepare is not None:
                prepare()
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(EXIT_OF_SIGNAL + signal.SIGTERM)  # we ended before that was said

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        try:
            self._process = subprocess.Popen(command, env=environment, preexec_fn=before_exec)  # noqa: PLW1509, S603 - that is the command's purpose
        except FileNotFoundError as error:
            raise InvalidError("command_not_found", f"there is no program {command[0]}") from error
        except PermissionError as error:
            raise InvalidError("command_not_executable", f"{command[0]} cannot be executed") from error
        for number in _PASSED_ON:
            loop.add_signal_handler(number, self._pass_on, number)
        self._reap()

    @property
    def pid(self) -> int:
        """Of the program's first process."""
        return self._process.pid

    async def wait(self) -> int:
        """Its exit code; 128 and the signal's number if a signal ended it."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it if it has not ended."""
        if not self._ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _pass_on(self, number: signal.Signals) -> None:
        if number not in _OF_TERMINAL or not _is_in_foreground():
            self.send_signal(number)

    def _reap(self) -> None:
        """Collects the program and every orphan that we adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._process.pid and not self._ended.done():
                code = os.waitstatus_to_exitcode(status)
                self._process.returncode = code
                self._ended.set_result(code if code >= 0 else EXIT_OF_SIGNAL - code)


def _is_in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
