"""A planned restart that the running broker begins itself, on SIGHUP: it starts the process that takes over from it.

Owns: that process until it has taken over or failed. Does not own: the hand-over (``broker.handover``).

The command is that of this process, so a new version that was installed meanwhile is what starts.
"""

from __future__ import annotations

import asyncio
import sys

import structlog

from broker.config import BrokerConfig

_TAKE_OVER = "--take-over"

log = structlog.get_logger("broker.restart")


class Restart:
    """Starts one successor at a time.

    Args:
        config: the whole configuration.
        command: what to run; this process's own unless given.
    """

    def __init__(self, config: BrokerConfig, command: tuple[str, ...] | None = None) -> None:
        self._state_dir = config.state_dir
        given = (sys.executable, *sys.orig_argv[1:]) if command is None else command
        self._command = given if _TAKE_OVER in given else (*given, _TAKE_OVER)
        self._running: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the successor, unless one is on its way."""
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        log.info("restart_begun")
        try:
            # It shares standard output and error, and outlives this process.
            process = await asyncio.create_subprocess_exec(*self._command, stdin=asyncio.subprocess.DEVNULL)
        except OSError as error:
            log.warning("restart_failed", reason=str(error))
            return
        # Ends while this process still runs only if it could not take over.
        code = await process.wait()
        log.warning("restart_failed", exit_code=code)
