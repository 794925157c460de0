"""The Merkle log of this node, put together: tiler, witnesses, publisher, announcer, HTTP.

Owns: constructing them from the configuration, and what status says of them. Does not own: what any of them does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict
from typing import Any

from broker.audit.announcement import LogKeyAnnouncer
from broker.audit.history import CheckpointHistory
from broker.audit.log_signer import KEY_NAME, LogSigner, load_log_signer
from broker.audit.publisher import Publisher
from broker.audit.tile_http import TileHttp
from broker.audit.tile_store import TileStore
from broker.audit.tiler import Tiler
from broker.audit.witnesses import Witnesses
from broker.config import BrokerConfig
from broker.dataplane_api import DataPlane
from broker.own_identity import OwnIdentity
from broker.serving import bind_tcp, serve_routes
from hopseal.watch import Watch

TLOG_NAME = "tlog"
HISTORY_NAME = "history"
_LIFE_S = 300.0  # an auditor fetches many tiles over one connection


def load_signer(config: BrokerConfig) -> LogSigner:
    """The log's key; blocks.

    Raises:
        InvalidError, UnavailableError: see :func:`broker.audit.log_signer.load_log_signer`.
    """
    return load_log_signer(config.state_dir / KEY_NAME, config.log_origin)


class LocalLog:
    """The parts of the log, constructed and not running.

    Args:
        config: the whole configuration.
        signer: the log's key.
        data_plane: started.
        own: the broker's own SVID.
        source: where jitter comes from.
    """

    def __init__(
        self,
        config: BrokerConfig,
        signer: LogSigner,
        data_plane: DataPlane,
        own: Watch[OwnIdentity | None],
        source: random.Random,
    ) -> None:
        audit = config.audit
        self._data_plane = data_plane
        self._key = signer.key
        self._strict = audit.strict
        folder = config.state_dir / TLOG_NAME
        store = TileStore(folder)
        self.tiler = Tiler(config.state_dir / "log", store, signer, data_plane, interval_s=audit.checkpoint_interval_s)
        self.witnesses = Witnesses(signer.key, audit.witnesses, audit.quorum, source=source)
        history = CheckpointHistory(folder / HISTORY_NAME)
        self.publisher = Publisher(self.tiler, store, history, self.witnesses, data_plane)
        self._announcer = LogKeyAnnouncer(own, signer.key, data_plane)
        self._http = TileHttp(store, self.publisher)

    @property
    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the broker does."""
        return [self.tiler.run(), self.publisher.run(), self._announcer.run()]

    @contextlib.asynccontextmanager
    async def serve(self, sock: socket.socket | None) -> AsyncIterator[None]:
        """Serve the published log on ``sock``, if there is one, until the context ends."""
        if sock is None:
            yield
            return
        async with serve_routes(sock, self._http.routes, life_s=_LIFE_S):
            yield

    async def settle(self, timeout_s: float) -> None:
        """Wait until all that is durable is published, at most ``timeout_s``.

        Also the last calls of a broker that stops need a witnessed time near their own.
        """
        watch = self.publisher.published
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while watch.value.size < self._data_plane.log_durable():
                    await watch.wait_change(watch.version)

    def problems(self) -> list[str]:
        """What makes the node unhealthy."""
        found = [f"the log is not signed: {self.tiler.problem}"] if self.tiler.problem else []
        if self.publisher.problem:
            found.append(f"the log is not published: {self.publisher.problem}")
        return found + self.witnesses.problems()

    def describe(self) -> dict[str, Any]:
        """The log in ``/v1/status``."""
        signed, published = self.tiler.signed.value, self.publisher.published.value
        durable = self._data_plane.log_durable()
        return {
            "origin": self._key.name,
            "vkey": str(self._key),
            "strict": self._strict,
            "entries": durable,
            "signed": self.tiler.size,
            "signed_at": signed.signed_at if signed else None,
            "published": published.size,
            "published_at": published.at or None,
            "lag": max(0, durable - published.size),
            "problem": self.tiler.problem or self.publisher.problem,
            "witnesses": [asdict(each) for each in self.witnesses.statuses()],
        }


def bind_listener(config: BrokerConfig) -> socket.socket | None:
    """The socket that tiles are served on; None if they are not.

    Raises:
        UnavailableError: it cannot be bound (``audit_listen_unavailable``).
    """
    return None if config.audit.listen is None else bind_tcp(config.audit.listen, "audit.listen")
