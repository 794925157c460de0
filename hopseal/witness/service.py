"""The witness as a process: the only place that constructs its parts, and their life together.

Start: lock the state and read it -> bind -> serve. Stop, on the first SIGTERM or SIGINT: accept nothing new, answer
what was read, close. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket

from hopseal.errors import UnavailableError
from hopseal.witness.config import Listen, WitnessConfig
from hopseal.witness.cosigner import Cosigner
from hopseal.witness.events import LibraryEvents, write_event
from hopseal.witness.server import WitnessHttp
from hopseal.witness.state import open_state

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def serve(config: WitnessConfig) -> None:
    """Run the witness until a signal ends it.

    Raises:
        HopsealError: it could not be started; nothing is left bound or locked.
    """
    logging.basicConfig(level=logging.WARNING, handlers=[LibraryEvents()])
    stop = _watch_signals()
    with open_state(config.state_dir, config.name, config.algorithms) as state:
        http = WitnessHttp(Cosigner(state, config.logs), config.limits, write_event)
        sock = bind(config.listen)
        async with http.serve(sock):
            write_event(
                "witness_started",
                name=config.name,
                listen=str(Listen(*sock.getsockname()[:2])),
                keys=[str(signer.key) for signer in state.signers],
                logs=sorted(config.logs),
                remembered={origin: head.size for origin, head in state.memory.heads.items()},
            )
            await stop.wait()
            write_event("witness_stopping")
    write_event("witness_stopped")


def bind(listen: Listen) -> socket.socket:
    """A TCP socket bound there, not yet listening.

    Raises:
        UnavailableError: it cannot be bound (``witness_listen_unavailable``).
    """
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((listen.host, listen.port))
    except OSError as error:
        sock.close()
        raise UnavailableError(
            "witness_listen_unavailable",
            f"cannot listen on {listen}: {error.strerror}",
            remedy="stop what listens there, or change `listen`",
        ) from error
    return sock


def _watch_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note() -> None:
        stop.set()
        # The second signal meets the system's default and ends the process.
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for each in _SIGNALS:
        loop.add_signal_handler(each, note)
    return stop
