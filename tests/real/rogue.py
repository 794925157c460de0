"""The component ``front/rogue``: it holds its own key and says to the broker's peer port what a test wants.

Owns: its SVID, its messages. Does not own: the wire (``real.wire``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from real.oneagent import TRUST_DOMAIN, OneAgent
from real.spire import find_binaries
from real.wire import Identity, Peer, fetch_identity, fields, root_record, seal, temporary_folder

BODY = b"{}"
CALLEE_ID = f"spiffe://{TRUST_DOMAIN}/agents/back/server"
Message = Sequence[tuple[str, str]]


class Rogue:
    """Calls ``back/server`` without a broker of its own."""

    def __init__(self, agent: OneAgent, identity: Identity) -> None:
        self._agent = agent
        self._identity = identity

    @property
    def _peer(self) -> Peer:
        return Peer(None, ("127.0.0.1", self._agent.peer_port()), "server", "back", CALLEE_ID)

    def message(self, *, at: int | None = None) -> Message:
        """The header fields of a good call in a task of its own, signed ``at`` this time (default: now)."""
        headers, rqb = self._peer.bound(BODY)
        record = root_record(self._identity, self._peer, rqb, now=at, ttl_s=60)
        return [*headers, *fields(seal(self._identity, record), (), [self._identity.leaf_der])]

    def send(self, message: Message) -> tuple[int, dict[str, Any]]:
        """Status and JSON answer, over a new connection."""
        return self._peer.send(self._identity, message, BODY)


@contextmanager
def rogue_on(agent: OneAgent) -> Iterator[Rogue]:
    """The rogue with an SVID that it fetched from the running node."""
    folder = temporary_folder()
    try:
        yield Rogue(agent, fetch_identity(find_binaries() / "spire-agent", agent.node.api_socket, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
