"""The attestor as a process of its own: hardened, stopped by signals.

Owns: what concerns the process as a whole. Does not own: what runs in it (``attestor.service``).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal

from attestor.config import AttestorConfig
from attestor.service import AttestorService
from hopseal.errors import UnavailableError

_PR_SET_DUMPABLE = 4
_EXIT_BY_SIGNAL = 128


async def run_daemon(config: AttestorConfig) -> None:
    """Run an attestor in this process until SIGTERM or SIGINT; a second one exits at once."""
    harden_process()
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(_EXIT_BY_SIGNAL + number)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await AttestorService(config).run(stop)


def harden_process() -> None:
    """No core dumps, and no reading of this memory by other processes of the same user: keys are in it.

    Raises:
        UnavailableError: the kernel refused (``hardening_failed``).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise UnavailableError("hardening_failed", f"prctl: {os.strerror(ctypes.get_errno())}")
