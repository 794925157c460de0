"""One witness as the broker sees it: asking it to cosign, and what came of it.

Owns: the HTTP of one witness under a deadline, catching up after a conflict, when to ask again, its state.
Does not own: how many witnesses are enough (``witnesses``).
Nothing that a witness says is believed: its cosignatures are verified, its size is only where a proof begins.
Source: c2sp.org/tlog-witness.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import aiohttp
import structlog

from hopseal.backoff import Backoff
from hopseal.errors import HopsealError
from hopseal.log.cosignature import Cosignature, verify_cosignature
from hopseal.log.log_key import LogCheckpoint
from hopseal.log.note import VerifierKey, parse_signatures
from hopseal.log.refusals import TransparencyError
from hopseal.log.witness import AddCheckpoint, parse_conflict

CLOCK_TOLERANCE_S: Final = 60  # half of what an auditor allows between a record and its cosignature; custody-wire §11
ATTEMPTS: Final = 3  # a conflict says where to begin; another submitter of the same log may be faster
MAX_ANSWER_BYTES: Final = 131_072

Consistency = Callable[[int], Sequence[bytes]]
"""``consistency(old_size)`` gives the proof from there to the checkpoint; it may read files and is run in a thread."""

log = structlog.get_logger("broker.audit")


class WitnessState(StrEnum):
    """What came of asking a witness last."""

    UNTRIED = "untried"
    COSIGNED = "cosigned"
    UNAVAILABLE = "unavailable"
    UNKNOWN_LOG = "unknown_log"
    WRONG_ANSWER = "wrong_answer"
    REFUSED = "refused"


_CODES = {
    WitnessState.UNAVAILABLE: "witness_unavailable",
    WitnessState.UNKNOWN_LOG: "witness_log_unknown",
    WitnessState.WRONG_ANSWER: "witness_answer_invalid",
    WitnessState.REFUSED: "witness_refused",
}


@dataclass(frozen=True, slots=True)
class WitnessStatus:
    """What is known of one witness.

    Args:
        url: its submission prefix.
        state: what came of asking last.
        detail: why, for the operator.
        size: of the tree that it cosigned last, as far as known.
        cosigned_at: seconds since 1970; None if never since the start.
        cosigned: how often it did.
        failed: how often asking came to nothing, by state.
    """

    url: str
    state: WitnessState
    detail: str
    size: int
    cosigned_at: int | None
    cosigned: int
    failed: dict[str, int]

    @property
    def problem(self) -> str:
        """What makes the node unhealthy; empty if nothing does."""
        if self.state in {WitnessState.UNTRIED, WitnessState.COSIGNED}:
            return ""
        return f"witness {self.url}: {_CODES[self.state]}: {self.detail}"


class WitnessFailedError(HopsealError):
    """A witness gave no cosignature.

    Args:
        state: what it is in now.
        detail: why.
    """

    def __init__(self, state: WitnessState, detail: str) -> None:
        super().__init__(_CODES[state], "a witness gave no cosignature", detail=detail, remedy="see docs/witness.md")
        self.state = state


class WitnessLink:
    """One witness; asked by one task at a time.

    Args:
        url: submission prefix, without the slash at its end.
        keys: of the witness; a cosignature by any of them counts.
        backoff: how long it is left alone after a failure.
        now: seconds since 1970.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        url: str,
        keys: Sequence[VerifierKey],
        backoff: Backoff,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._keys = tuple(keys)
        self._backoff = backoff
        self._now = now
        self._monotonic = monotonic
        self._size = 0  # what it says; only where the next proof begins
        self._cosigned_size = 0  # what it proved to us
        self._state = WitnessState.UNTRIED
        self._detail = ""
        self._retry_at = 0.0
        self._cosigned_at: int | None = None
        self._cosigned = 0
        self._failed = dict.fromkeys(map(str, _CODES), 0)

    def status(self) -> WitnessStatus:
        """What is known now."""
        return WitnessStatus(
            self.url,
            self._state,
            self._detail,
            self._size,
            self._cosigned_at,
            self._cosigned,
            dict(self._failed),
        )

    def is_due(self) -> bool:
        """Whether it may be asked now, or is to be left alone a while longer."""
        return self._monotonic() >= self._retry_at

    async def cosign(
        self, session: aiohttp.ClientSession, checkpoint: LogCheckpoint, consistency: Consistency, timeout_s: float
    ) -> tuple[Cosignature, ...]:
        """The cosignatures over the checkpoint, each verified; none if it gave none, which the state explains."""
        try:
            async with asyncio.timeout(timeout_s):
                cosignatures = await self._cosign(session, checkpoint, consistency)
        except WitnessFailedError as error:
            self._fail(error.state, error.detail)
        except HopsealError as error:
            self._fail(WitnessState.UNAVAILABLE, f"no proof for it: {error}")
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            self._fail(WitnessState.UNAVAILABLE, str(error) or f"no answer within {timeout_s} s")
        else:
            self._succeed(checkpoint.checkpoint.size)
            return cosignatures
        return ()

    async def _cosign(
        self, session: aiohttp.ClientSession, checkpoint: LogCheckpoint, consistency: Consistency
    ) -> tuple[Cosignature, ...]:
        size = checkpoint.checkpoint.size
        if self._cosigned_size > size:
            raise _lost_tail("it cosigned", self._cosigned_size, size)
        old = self._size if self._size <= size else self._cosigned_size
        for _ in range(ATTEMPTS):
            proof = await asyncio.to_thread(consistency, old) if 0 < old < size else ()
            status, body = await self._post(session, AddCheckpoint(old, tuple(proof), checkpoint.note.encode()))
            if status == 200:
                return self._verify(body, checkpoint)
            if status != 409:
                raise _failure(status, body)
            old = self._catch_up(body, size)
        raise WitnessFailedError(WitnessState.WRONG_ANSWER, f"{ATTEMPTS} conflicts in a row")

    def _catch_up(self, body: bytes, own_size: int) -> int:
        """Where the witness says that it is."""
        try:
            size = parse_conflict(body)
        except TransparencyError as error:
            raise WitnessFailedError(WitnessState.WRONG_ANSWER, f"409 without a size: {error.detail}") from error
        if size < self._cosigned_size:
            detail = (
                f"it cosigned {self._cosigned_size} entries and remembers {size}: it forgot, so it may cosign a fork"
            )
            raise WitnessFailedError(WitnessState.WRONG_ANSWER, detail)
        self._size = size
        if size > own_size:
            raise _lost_tail("it says that it cosigned", size, own_size)
        return size

    async def _post(self, session: aiohttp.ClientSession, request: AddCheckpoint) -> tuple[int, bytes]:
        async with session.post(f"{self.url}/add-checkpoint", data=request.encode(), allow_redirects=False) as answer:
            body = bytearray()
            async for chunk in answer.content.iter_chunked(65_536):
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise WitnessFailedError(WitnessState.WRONG_ANSWER, f"more than {MAX_ANSWER_BYTES} bytes")
            return answer.status, bytes(body)

    def _verify(self, body: bytes, checkpoint: LogCheckpoint) -> tuple[Cosignature, ...]:
        """One cosignature for each key at most: however many a witness sends, a checkpoint carries few."""
        found: dict[VerifierKey, Cosignature] = {}
        try:
            signatures = parse_signatures(body.decode("utf-8"))
            for key in self._keys:
                for signature in filter(key.made, signatures):
                    cosignature = verify_cosignature(key, signature, checkpoint.checkpoint)
                    self._check_time(cosignature.time)
                    found.setdefault(key, cosignature)
        except (TransparencyError, UnicodeDecodeError) as error:
            raise WitnessFailedError(WitnessState.WRONG_ANSWER, str(error)) from error
        if not found:
            raise WitnessFailedError(WitnessState.WRONG_ANSWER, "no cosignature is by the key that is configured")
        return tuple(found.values())

    def _check_time(self, time_s: int) -> None:
        if abs(time_s - self._now()) > CLOCK_TOLERANCE_S:
            detail = f"it says that it is {time_s} (seconds since 1970): one of the two clocks is wrong"
            raise WitnessFailedError(WitnessState.WRONG_ANSWER, detail)

    def _succeed(self, size: int) -> None:
        if self._state is not WitnessState.COSIGNED:
            log.info("witness_cosigns", witness=self.url, size=size, before=str(self._state))
        self._state, self._detail = WitnessState.COSIGNED, ""
        self._size = self._cosigned_size = size
        self._cosigned_at = int(self._now())
        self._cosigned += 1
        self._retry_at = 0.0
        self._backoff.reset()

    def _fail(self, state: WitnessState, detail: str) -> None:
        # A refusal is an alarm each time; everything else once, until it changes.
        if state is WitnessState.REFUSED:
            log.error("witness_refused", witness=self.url, detail=detail)
        elif state is not self._state:
            log.warning(_CODES[state], witness=self.url, detail=detail)
        self._state, self._detail = state, detail
        self._failed[str(state)] += 1
        self._retry_at = self._monotonic() + self._backoff.next_s()


def _lost_tail(said: str, size: int, own_size: int) -> WitnessFailedError:
    return WitnessFailedError(WitnessState.REFUSED, f"{said} {size} entries of this log, which has {own_size} now")


def _failure(status: int, body: bytes) -> WitnessFailedError:
    said = body[:200].decode("utf-8", "replace").strip()
    detail = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    if status in {403, 422}:
        return WitnessFailedError(WitnessState.REFUSED, detail)
    if status == 404:
        return WitnessFailedError(WitnessState.UNKNOWN_LOG, detail)
    state = WitnessState.UNAVAILABLE if status >= 500 or status == 429 else WitnessState.WRONG_ANSWER
    return WitnessFailedError(state, detail)
