"""Bounded stores that a receiver keeps between requests, in memory.

Owns: bounds, eviction and quotas. A cache forgets its oldest entries; the replay store and the root issuers never
forget what is still valid and refuse instead. Not shared between threads without a lock.
Source: custody-wire §5.1, §6.15, §6.16 and §12.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from hopseal.custody.errors import Code, refusal
from hopseal.ids import SpiffeId
from hopseal.limits import CHAIN_AGE_S, CLOCK_SKEW_S, REPLAY_ENTRIES, ROOT_ENTRIES

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """A map that forgets the least recently used entries, first those of an owner above its quota.

    Args:
        entries: most entries in all.
        per_owner: most entries that one owner (a peer) may bring in.
    """

    def __init__(self, entries: int, per_owner: int) -> None:
        self._entries = entries
        self._per_owner = per_owner
        self._values: OrderedDict[K, tuple[V, str]] = OrderedDict()
        self._owned: dict[str, OrderedDict[K, None]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value of ``key``, now the most recently used."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, owner: str) -> list[V]:
        """Store ``value`` for ``owner``; the values that had to go.

        What is already there keeps its owner: another peer cannot take it over and then displace it.
        """
        if key in self._values:
            self._values[key] = (value, self._values[key][1])
            self._values.move_to_end(key)
            return []
        mine = self._owned.setdefault(owner, OrderedDict())
        gone = []
        if len(mine) >= self._per_owner:
            gone.append(self.discard(next(iter(mine))))
        elif len(self._values) >= self._entries:
            gone.append(self.discard(next(iter(self._values))))
        self._values[key] = (value, owner)
        self._owned.setdefault(owner, mine)[key] = None
        return [value for value in gone if value is not None]

    def discard(self, key: K) -> V | None:
        """Forget ``key``; its value if there was one."""
        found = self._values.pop(key, None)
        if found is None:
            return None
        value, owner = found
        mine = self._owned[owner]
        del mine[key]
        if not mine:
            del self._owned[owner]
        return value

    def discard_if(self, condition: Callable[[V], bool]) -> None:
        """Forget every entry whose value fulfils ``condition``."""
        for key in [key for key, (value, _) in self._values.items() if condition(value)]:
            self.discard(key)


class ReplayStore:
    """Which ``(iss, jti)`` were used, for as long as their records could be accepted.

    Args:
        capacity: most unexpired entries; beyond that every record is refused.
    """

    def __init__(self, capacity: int = REPLAY_ENTRIES) -> None:
        self._capacity = capacity
        self._expiry: dict[tuple[str, str], int] = {}
        self._order: list[tuple[int, tuple[str, str]]] = []

    def __len__(self) -> int:
        return len(self._expiry)

    def use(self, iss: SpiffeId, jti: str, expires_at: int, now: int) -> None:
        """Mark one record as used until ``expires_at`` (NumericDate seconds).

        Raises:
            CustodyError: [replayed] if it is marked, [unavailable] if the store is full of unexpired entries.
        """
        self._forget_expired(now)
        key = (str(iss), jti)
        if key in self._expiry:
            raise refusal(Code.REPLAYED)
        if len(self._expiry) >= self._capacity:
            raise refusal(Code.UNAVAILABLE, "the replay store is full")
        self._expiry[key] = expires_at
        heapq.heappush(self._order, (expires_at, key))

    def _forget_expired(self, now: int) -> None:
        while self._order and self._order[0][0] <= now:
            del self._expiry[heapq.heappop(self._order)[1]]


class RootIssuers:
    """Who began each chain: several roots of one ``cid`` count only from one ``iss``.

    Args:
        capacity: most chains remembered; beyond that new chains are refused.
    """

    def __init__(self, capacity: int = ROOT_ENTRIES) -> None:
        self._capacity = capacity
        self._issuers: OrderedDict[str, tuple[SpiffeId, int]] = OrderedDict()

    def check(self, cid: str, iss: SpiffeId, now: int) -> None:
        """Return if ``cid`` is new or was begun by ``iss``.

        Raises:
            CustodyError: [chain].
        """
        known = self._issuers.get(cid)
        if known is not None and known[0] != iss and known[1] > now:
            raise refusal(Code.CHAIN, "another component began a chain of this cid")

    def remember(self, cid: str, iss: SpiffeId, now: int) -> None:
        """Keep who began ``cid`` for as long as a root of it can be accepted.

        Raises:
            CustodyError: [unavailable] if full.
        """
        while self._issuers and next(iter(self._issuers.values()))[1] <= now:
            self._issuers.popitem(last=False)
        if cid not in self._issuers and len(self._issuers) >= self._capacity:
            raise refusal(Code.UNAVAILABLE, "too many chains are in progress")
        self._issuers[cid] = (iss, now + CHAIN_AGE_S + 2 * CLOCK_SKEW_S)
        self._issuers.move_to_end(cid)
