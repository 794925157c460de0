"""How many attestations one user and one cgroup may start: decided before anything is measured.

Owns: the token buckets. Does not own: what a refused caller is told (``attestor.attestation``).

Joining the tracking of a process that is watched already costs nothing here; only a process that
was not seen yet does. A cgroup's bucket is smaller than a user's, because all containers of a
node may run as one user and one of them must not use up what the others need.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """``per_s`` new tokens a second, at most ``burst`` of them kept."""

    per_s: float
    burst: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class TokenBuckets:
    """One bucket for each key; the keys used longest ago are forgotten, which leaves them full.

    Args:
        rate: of every bucket.
        clock: seconds, monotonic.
        max_keys: how many buckets are kept.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float], *, max_keys: int = 4096) -> None:
        self._rate = rate
        self._clock = clock
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def has_token(self, key: str) -> bool:
        """Whether :meth:`take` would find a token."""
        return self._fill(key).tokens >= 1

    def take(self, key: str) -> None:
        """Use one token up."""
        self._fill(key).tokens -= 1

    def __len__(self) -> int:
        return len(self._buckets)

    def _fill(self, key: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._rate.burst, now)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        bucket.tokens = min(self._rate.burst, bucket.tokens + (now - bucket.filled_at) * self._rate.per_s)
        bucket.filled_at = now
        return bucket


class Admission:
    """Whether a process that was not seen yet may be attested now."""

    def __init__(self, *, per_uid: Rate, per_cgroup: Rate, clock: Callable[[], float]) -> None:
        self._users = TokenBuckets(per_uid, clock)
        self._cgroups = TokenBuckets(per_cgroup, clock)

    def admit(self, uid: int, cgroup: str) -> bool:
        """True, and one token of each bucket is used up; or False, and none is."""
        user = str(uid)
        if not (self._users.has_token(user) and self._cgroups.has_token(cgroup)):
            return False
        self._users.take(user)
        self._cgroups.take(cgroup)
        return True
