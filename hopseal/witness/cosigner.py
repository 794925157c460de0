"""Cosigning, one request after the other: decide, remember, then give the cosignature away.

Owns: the order of these, and the time in a cosignature. Does not own: HTTP (``server``).
Security: decision and memory change under one lock, so two requests cannot both continue the same tree.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from hopseal.errors import InvalidError, UnavailableError
from hopseal.log.checkpoint import Checkpoint
from hopseal.log.cosignature import cosign, verify_cosignature
from hopseal.log.note import Note, VerifierKey
from hopseal.log.refusals import TransparencyError
from hopseal.log.witness import Accepted, decide, parse_add_checkpoint
from hopseal.witness.state import WitnessState

EARLIEST: Final = 1_700_000_000  # November 2023; a clock before that was never set
CLOCK_STEP_S: Final = 5  # a clock that steps back so little goes on with the last time


class Cosigner:
    """The witness without its network; its methods block, and may be called by several threads.

    Args:
        state: open.
        logs: trusted keys by origin.
        now: seconds since 1970.
    """

    def __init__(
        self,
        state: WitnessState,
        logs: Mapping[str, Sequence[VerifierKey]],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._logs = logs
        self._now = now
        self._lock = threading.Lock()

    def add_checkpoint(self, body: bytes) -> tuple[Checkpoint, bytes]:
        """The checkpoint in the request ``body``, and the cosignature lines over it.

        Raises:
            WitnessRefusalError: it is not cosigned.
            UnavailableError: it cannot be cosigned now: the state cannot be written, or the clock is wrong
                (``witness_clock``).
            InvalidError: it proves that this witness forgot what it cosigned (``witness_state_rolled_back``).
        """
        request = parse_add_checkpoint(body)
        with self._lock:
            accepted = decide(request, self._logs, self._state.memory.heads)
            self._check_memory(accepted)
            at = self._time()
            checkpoint = accepted.checkpoint.checkpoint
            lines = tuple(cosign(checkpoint, signer, at) for signer in self._state.signers)
            # The same tree again changes nothing that must be kept, so repeating it costs no write.
            if accepted.after != self._state.memory.heads.get(checkpoint.origin):
                note = Note(checkpoint.text, (*accepted.checkpoint.signatures, *lines))
                self._state.advance(accepted, at, note.encode())
        return checkpoint, "".join(map(str, lines)).encode()

    def checkpoint(self, origin_hash: str) -> bytes | None:
        """The latest cosigned checkpoint of a log, by the SHA-256 of its origin in hex; None if there is none."""
        return self._state.note(origin_hash)

    def _time(self) -> int:
        now, last = int(self._now()), self._state.memory.at
        if now < max(last - CLOCK_STEP_S, EARLIEST):
            raise UnavailableError(
                "witness_clock",
                "the clock of the witness is wrong",
                detail=f"it is {now}, and cosigned at {last} (seconds since 1970)",
                remedy="set the clock of the witness",
            )
        return max(now, last)

    def _check_memory(self, accepted: Accepted) -> None:
        """Refuse to go on if the checkpoint carries a cosignature of ours that we do not remember."""
        checkpoint = accepted.checkpoint.checkpoint
        if accepted.after == accepted.before:
            return
        for signer in self._state.signers:
            for signature in accepted.checkpoint.note.signed_by(signer.key):
                try:
                    verify_cosignature(signer.key, signature, checkpoint)
                except TransparencyError:
                    continue
                raise InvalidError(
                    "witness_state_rolled_back",
                    "this witness cosigned the checkpoint before, and does not remember it",
                    detail=f"{checkpoint.origin} at {checkpoint.size}; remembered: {accepted.before.size}",
                    remedy="an older copy was put back: make a new witness with new keys; see docs/witness.md",
                )
