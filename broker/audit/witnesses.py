"""The witnesses of this node's log: a checkpoint goes out, and comes back cosigned by a quorum.

Owns: asking all of them at once, when that is enough, what of it makes the node unhealthy.
Does not own: one witness (``witness_link``); the log and its checkpoints.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import structlog

from broker.audit.witness_link import Consistency, WitnessLink, WitnessState, WitnessStatus
from hopseal.backoff import Backoff
from hopseal.errors import BugError, UnavailableError
from hopseal.log.checkpoint import UnverifiedCheckpoint, parse_signed_checkpoint
from hopseal.log.cosignature import Cosignature
from hopseal.log.log_key import LogCheckpoint, verify_log_signature
from hopseal.log.note import MAX_SIGNATURES, Note, VerifierKey
from hopseal.log.policy import CosignedCheckpoint, Policy, policy_of
from hopseal.log.refusals import Reason, TransparencyError

TIMEOUT_S: Final = 5.0  # for all attempts at one witness
GRACE_S: Final = 0.25  # for those that have not answered when the quorum is met
MAX_KEYS: Final = MAX_SIGNATURES - 1  # a checkpoint carries a signature of each, and the log's own
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0  # a witness that is back is asked soon: calls of a strict node wait for it

log = structlog.get_logger("broker.audit")


class Witnesses:
    """Every witness that this node's log is shown to.

    Args:
        log_key: the log's own; its name is the origin.
        witnesses: submission prefix and key of each; one prefix with several keys is one witness.
        quorum: how many must have cosigned a checkpoint; 0 asks for none.
        source: where the jitter of the pauses comes from.
        timeout_s: for all attempts at one witness.
        now: seconds since 1970.

    Raises:
        TransparencyError: [policy_invalid] the quorum cannot be met by these keys.
    """

    def __init__(
        self,
        log_key: VerifierKey,
        witnesses: Iterable[tuple[str, VerifierKey]],
        quorum: int,
        *,
        source: random.Random,
        timeout_s: float = TIMEOUT_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        keys: dict[str, list[VerifierKey]] = {}
        for url, key in witnesses:
            keys.setdefault(url.rstrip("/"), []).append(key)
        if sum(map(len, keys.values())) > MAX_KEYS:
            raise TransparencyError(Reason.POLICY, f"more than {MAX_KEYS} keys of witnesses")
        self.policy: Policy = policy_of([log_key], keys.values(), quorum)
        self._log_key = log_key
        self._links = tuple(
            WitnessLink(url, each, Backoff(source, first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S), now=now)
            for url, each in keys.items()
        )
        self._timeout_s = timeout_s
        self._now = now
        self._session: aiohttp.ClientSession | None = None
        self._is_quorum_missed = False

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Keep connections to the witnesses open while the context lasts."""
        # Bodies are small, so a compressed one could only be meant to grow.
        headers = {"Accept-Encoding": "identity", "User-Agent": "hopseal-broker"}
        async with aiohttp.ClientSession(headers=headers, auto_decompress=False) as session:
            self._session = session
            try:
                yield
            finally:
                self._session = None

    async def cosign(self, note: bytes, consistency: Consistency) -> CosignedCheckpoint:
        """The checkpoint in ``note`` with the verified cosignatures of a quorum at least.

        Args:
            note: the signed checkpoint of this node's log; cosignatures that it has already count.
            consistency: the proof to it from the size given; may read files, and is run in a thread.

        Raises:
            UnavailableError: too few cosigned (``log_unwitnessed``); :meth:`statuses` tells why.
            TransparencyError: ``note`` is no checkpoint of this log, or carries a wrong cosignature.
        """
        if self._session is None:
            raise BugError("witnesses_disconnected", "witnesses are asked outside of connected()")
        checkpoint = verify_log_signature(parse_signed_checkpoint(note), [self._log_key])
        self._verify(checkpoint, ())  # a wrong line of its own would spoil every answer
        due = [link for link in self._links if link.is_due()]
        found: list[Cosignature] = []
        async with asyncio.TaskGroup() as group:
            asking = {
                group.create_task(link.cosign(self._session, checkpoint, consistency, self._timeout_s)) for link in due
            }
            await self._gather(checkpoint, asking, found)
        return self._judge(checkpoint, found)

    def statuses(self) -> tuple[WitnessStatus, ...]:
        """What is known of each witness."""
        return tuple(link.status() for link in self._links)

    def problems(self) -> list[str]:
        """What makes the node unhealthy: every wrong witness, and silent ones while the quorum is missed."""
        found = [status for status in self.statuses() if status.problem]
        if self._is_quorum_missed:
            return [status.problem for status in found]
        return [status.problem for status in found if status.state is not WitnessState.UNAVAILABLE]

    async def _gather(
        self,
        checkpoint: LogCheckpoint,
        asking: set[asyncio.Task[tuple[Cosignature, ...]]],
        found: list[Cosignature],
    ) -> None:
        """Wait for all, but not long for the rest once the quorum is met; a witness cut short conflicts next time."""
        pending, is_met = asking, False
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=GRACE_S if is_met else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for task in done:
                found += task.result()
            is_met = self._verify(checkpoint, found) is not None
        for task in pending:
            task.cancel()

    def _judge(self, checkpoint: LogCheckpoint, found: Sequence[Cosignature]) -> CosignedCheckpoint:
        cosigned = self._verify(checkpoint, found)
        self._is_quorum_missed = cosigned is None
        if cosigned is None:
            raise UnavailableError(
                "log_unwitnessed",
                f"{len(found)} cosignatures of the checkpoint at {checkpoint.checkpoint.size} entries are too few",
                detail="; ".join(filter(None, (status.problem for status in self.statuses()))),
                remedy="see docs/witness.md: what an alarm means",
            )
        return cosigned

    def _verify(self, checkpoint: LogCheckpoint, found: Sequence[Cosignature]) -> CosignedCheckpoint | None:
        had = checkpoint.note.signatures
        lines = dict.fromkeys((*had, *(each.signature for each in found)))
        note = Note(checkpoint.note.text, tuple(lines))
        try:
            return self.policy.verify(UnverifiedCheckpoint(checkpoint.checkpoint, note), int(self._now()))
        except TransparencyError as error:
            if error.reason is not Reason.QUORUM:
                raise
            return None
