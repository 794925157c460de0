"""Bounds on what one connection and one user may use up; pure accounting, the clock arrives as an argument."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

_WINDOW_S = 1.0
_EARLY_RESET_SHARE = 0.5  # of the streams opened in the window; Envoy's rule against rapid reset


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a peer may do before its connection is cut.

    Args:
        connections: open ones on one socket.
        connections_per_uid: open ones of one user.
        new_connections_per_s: of one user, sustained; twice as many in a burst.
        requests_per_s_per_uid, requests_per_s_per_cgroup: sustained; twice as many in a burst. What is over them is
            answered ``UNAVAILABLE`` before anybody looks at the caller again.
        refused_requests_per_s: of one connection that does not slow down.
        streams_per_connection: open at once.
        early_resets_per_s: streams that the peer opens and resets before it was answered, where these
            are at least half of what it opened.
        control_frames_per_s: frames that carry neither a request nor its body.
        header_list_bytes: decoded size of one header list.
        fruitless_bytes: received without anything coming of it, as in a header list or a frame that does not end.
        request_bytes: body of one request, or of one message where a method takes many.
        large_request_bytes: the same for methods whose honest requests are large.
        preface_timeout_s: from accept to the client's preface and settings.
        first_request_timeout_s: from accept to the first request.
        idle_timeout_s: without an open stream.
        stalled_timeout_s: with something to send that the peer does not read.
        write_buffer_bytes: waiting for a peer that does not read.
        read_chunk_bytes: read and worked off at once before other connections have their turn.
    """

    connections: int = 2048
    connections_per_uid: int = 64
    new_connections_per_s: int = 500
    requests_per_s_per_uid: int = 500
    requests_per_s_per_cgroup: int = 200
    refused_requests_per_s: int = 100
    streams_per_connection: int = 32
    early_resets_per_s: int = 100
    control_frames_per_s: int = 1000
    header_list_bytes: int = 16_384
    fruitless_bytes: int = 65_536
    request_bytes: int = 65_536
    large_request_bytes: int = 262_144  # Envoy names all its extensions in each discovery request: 61 kB in 1.40
    preface_timeout_s: float = 2.0
    first_request_timeout_s: float = 5.0
    idle_timeout_s: float = 300.0
    stalled_timeout_s: float = 30.0
    write_buffer_bytes: int = 262_144
    read_chunk_bytes: int = 4096


class FrameBudget:
    """Counts what one connection did in the present window; each method says why to cut it, or None."""

    def __init__(self, limits: ConnectionLimits, now: float) -> None:
        self._limits = limits
        self._window_start = now
        self._opened = 0
        self._early_resets = 0
        self._control_frames = 0
        self._refused = 0

    def note_opened(self, now: float) -> None:
        """A stream was opened."""
        self._roll(now)
        self._opened += 1

    def note_early_reset(self, now: float) -> str | None:
        """The peer reset a stream before it was answered."""
        self._roll(now)
        self._early_resets += 1
        too_many = self._early_resets > self._limits.early_resets_per_s
        return "rapid_reset" if too_many and self._early_resets >= _EARLY_RESET_SHARE * self._opened else None

    def note_control_frame(self, now: float) -> str | None:
        """A frame came that asks for nothing."""
        self._roll(now)
        self._control_frames += 1
        return "control_flood" if self._control_frames > self._limits.control_frames_per_s else None

    def note_refused(self, now: float) -> str | None:
        """A request was refused because there were too many."""
        self._roll(now)
        self._refused += 1
        return "request_flood" if self._refused > self._limits.refused_requests_per_s else None

    def _roll(self, now: float) -> None:
        if now - self._window_start >= _WINDOW_S:
            self._window_start = now
            self._opened = self._early_resets = self._control_frames = self._refused = 0


class UserBudgets:
    """Connections that each user has open and may still open; one of them is taken by :meth:`admit`."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._open: Counter[int] = Counter()
        self._tokens: dict[int, tuple[float, float]] = {}

    def admit(self, uid: int, now: float) -> str | None:
        """Why ``uid`` may not have one more connection, or None: it has it now and owes :meth:`release`."""
        if self._open.total() >= self._limits.connections:
            return "connections"
        if self._open[uid] >= self._limits.connections_per_uid:
            return "connections_per_uid"
        if not self._take_token(uid, now):
            return "new_connections_per_s"
        self._open[uid] += 1
        return None

    def release(self, uid: int) -> None:
        """A connection of ``uid`` is closed."""
        self._open[uid] -= 1
        if not self._open[uid]:
            del self._open[uid]

    def penalise(self, uid: int, now: float) -> None:
        """A connection of ``uid`` was cut for a flood: no new one for a while, or cutting it would gain nothing."""
        tokens = self._refill(uid, now)
        self._tokens[uid] = (tokens - self._limits.new_connections_per_s, now)

    def forget_idle(self, now: float) -> None:
        """Drop what is remembered of users that are as if they had never come."""
        full = 2 * self._limits.new_connections_per_s
        for uid in [uid for uid in self._tokens if uid not in self._open and self._refill(uid, now) >= full]:
            del self._tokens[uid]

    def _take_token(self, uid: int, now: float) -> bool:
        tokens = self._refill(uid, now)
        if tokens < 1:
            return False
        self._tokens[uid] = (tokens - 1, now)
        return True

    def _refill(self, uid: int, now: float) -> float:
        full = 2.0 * self._limits.new_connections_per_s
        tokens, since = self._tokens.get(uid, (full, now))
        return min(full, tokens + (now - since) * self._limits.new_connections_per_s)
