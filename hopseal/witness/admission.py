"""Who may connect and ask: bounds on connections and requests, for each address and in all.

Owns: counting. Does not own: sockets (``server``). Time is given, never read.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

from hopseal.witness.config import WitnessLimits

_BURST_S: Final = 2  # so many seconds' worth of requests may come at once
_MAX_PEERS: Final = 4_096


class Admission:
    """Counts connections and requests.

    Args:
        limits: the bounds.
    """

    def __init__(self, limits: WitnessLimits) -> None:
        self._limits = limits
        self._connections: Counter[str] = Counter()
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def connect(self, peer: str) -> bool:
        """Whether one more connection of ``peer`` is within the bounds; it then counts until :meth:`disconnect`."""
        if self._connections.total() >= self._limits.connections:
            return False
        if self._connections[peer] >= self._limits.connections_per_peer:
            return False
        self._connections[peer] += 1
        return True

    def disconnect(self, peer: str) -> None:
        """One connection of ``peer`` has ended."""
        self._connections[peer] -= 1
        if not self._connections[peer]:
            del self._connections[peer]

    def request(self, peer: str, now: float) -> bool:
        """Whether one more request of ``peer`` is within the bounds at ``now``, seconds that only grow."""
        rate = float(self._limits.requests_per_s)
        tokens, before = self._tokens.pop(peer, (rate * _BURST_S, now))
        tokens = min(rate * _BURST_S, tokens + (now - before) * rate)
        is_allowed = tokens >= 1
        self._tokens[peer] = (tokens - is_allowed, now)
        # Who was not heard of for longest begins anew; a flood of addresses cannot fill the memory.
        while len(self._tokens) > _MAX_PEERS:
            self._tokens.popitem(last=False)
        return is_allowed
