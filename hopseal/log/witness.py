"""What a witness is asked and what it answers, as values: no clock, no key, no file.

Owns: the text of an add-checkpoint request, and the one decision whether to cosign.
Does not own: signing, keeping the state, HTTP (``hopseal.witness``).

Rules, in the order in which they are checked; each refusal is one HTTP status of tlog-witness:
1. The body follows the format: else 400.
2. The origin is known: else 404.
3. A key trusted for the origin signed, and no signature by such a key is wrong: else 403.
4. The old size is not above the new one: else 400.
5. The old size is that of the latest checkpoint cosigned here: else 409 with that size.
6. The new tree continues the old one: else 422. Anybody can send a wrong proof with a right checkpoint; only another
   tree of the size that was cosigned proves by itself that the log forked.
So of one log two roots for one size are never cosigned, nor a tree that lacks a leaf cosigned before: every cosigned
checkpoint continues the one before it.
Source: c2sp.org/tlog-witness, "add-checkpoint".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from hopseal.errors import DeniedError, InvalidError
from hopseal.log.checkpoint import parse_hash, parse_number, parse_signed_checkpoint
from hopseal.log.log_key import LogCheckpoint, verify_log_signature
from hopseal.log.note import MAX_NOTE_BYTES, Note, VerifierKey, encode_base64
from hopseal.log.refusals import Reason, TransparencyError
from hopseal.log.tree import EMPTY_ROOT, verify_consistency

MAX_PROOF_LINES: Final = 63
MAX_REQUEST_BYTES: Final = MAX_NOTE_BYTES + 4_096
SIZE_TYPE: Final = "text/x.tlog.size"

_OLD = "old "


class Answer(Enum):
    """Why a request is refused: stable code, HTTP status, sentence, and what the log's operator can do."""

    MALFORMED = ("witness_request_malformed", 400, "the request does not follow the format", "repair the client")
    UNKNOWN = ("witness_log_unknown", 404, "no log of that origin is known", "have the log's key added here")
    UNSIGNED = ("witness_log_signature", 403, "no trusted key of the log signed", "have the log's new key added here")
    CONFLICT = ("witness_conflict", 409, "the old size is not that of the latest cosigned checkpoint", "catch up")
    INCONSISTENT = (
        "witness_inconsistent",
        422,
        "the tree does not continue the one cosigned",
        "find out who forked it",
    )
    FORKED = ("witness_forked", 422, "the log signed two trees of one size", "find out who uses the log's key")

    def __init__(self, code: str, status: int, message: str, remedy: str) -> None:
        self.code = code
        self.status = status
        self.message = message
        self.remedy = remedy


class WitnessRefusalError(DeniedError):
    """A checkpoint is not cosigned.

    Args:
        answer: why.
        detail: for the witness's log.
        size: of the latest cosigned checkpoint; with :attr:`Answer.CONFLICT` only.
        evidence: the checkpoint with the log's own signature; with 422 only.
    """

    def __init__(
        self, answer: Answer, *, detail: str = "", size: int | None = None, evidence: bytes | None = None
    ) -> None:
        super().__init__(answer.code, answer.message, detail=detail, remedy=answer.remedy)
        self.answer = answer
        self.size = size
        self.evidence = evidence


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request to cosign.

    Args:
        old_size: size of the checkpoint that the proof begins at.
        proof: consistency proof, hashes.
        checkpoint: the signed note, verbatim.
    """

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        """The body of the request."""
        lines = (f"{_OLD}{self.old_size}", *map(encode_base64, self.proof))
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.checkpoint


@dataclass(frozen=True, slots=True)
class Head:
    """The tree of the latest checkpoint that was cosigned of one log."""

    size: int
    root: bytes


NO_HEAD: Final = Head(0, EMPTY_ROOT)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The decision to cosign; made by :func:`decide` only.

    Args:
        checkpoint: signed by its log, and continuing ``before``.
        before: what the state must still hold when ``after`` takes its place.
        after: the state from now on, kept before the cosignature leaves.
    """

    checkpoint: LogCheckpoint
    before: Head
    after: Head


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """The request in a body; of its checkpoint nothing is checked yet.

    Raises:
        WitnessRefusalError: [witness_request_malformed].
    """
    if len(body) > MAX_REQUEST_BYTES:
        raise _malformed(f"longer than {MAX_REQUEST_BYTES} bytes")
    head, divider, checkpoint = body.partition(b"\n\n")
    if not divider:
        raise _malformed("it has no empty line before a checkpoint")
    try:
        first, *lines = head.decode("ascii").split("\n")
        if not first.startswith(_OLD) or len(lines) > MAX_PROOF_LINES:
            raise _malformed(f"it is not an old size and at most {MAX_PROOF_LINES} hashes")
        return AddCheckpoint(parse_number(first.removeprefix(_OLD)), tuple(map(parse_hash, lines)), checkpoint)
    except ValueError as error:
        raise _malformed(str(error)) from error


def decide(request: AddCheckpoint, logs: Mapping[str, Sequence[VerifierKey]], heads: Mapping[str, Head]) -> Accepted:
    """The decision to cosign the request's checkpoint.

    Args:
        request: as it was read.
        logs: trusted keys by origin.
        heads: the latest cosigned trees by origin; absent if none was.

    Raises:
        WitnessRefusalError: see the rules.
    """
    signed = _check_signed(request, logs)
    checkpoint = signed.checkpoint
    if request.old_size > checkpoint.size:
        raise _malformed("the old size is above the new one")
    before = heads.get(checkpoint.origin, NO_HEAD)
    if request.old_size != before.size:
        raise WitnessRefusalError(Answer.CONFLICT, detail=f"old size {request.old_size}", size=before.size)
    _check_continues(before, signed, request.proof)
    return Accepted(signed, before, Head(checkpoint.size, checkpoint.root))


def format_conflict(size: int) -> bytes:
    """The body of a 409."""
    return f"{size}\n".encode()


def parse_conflict(body: bytes) -> int:
    """The size in the body of a 409.

    Raises:
        TransparencyError: [witness_answer_malformed] it is none.
    """
    try:
        text = body.decode("ascii")
        if not text.endswith("\n"):
            raise ValueError("no newline at the end")  # noqa: TRY301 - one way out for every wrong body
        return parse_number(text[:-1])
    except ValueError as error:
        raise TransparencyError(Reason.ANSWER, str(error)) from error


def _check_signed(request: AddCheckpoint, logs: Mapping[str, Sequence[VerifierKey]]) -> LogCheckpoint:
    try:
        unverified = parse_signed_checkpoint(request.checkpoint)
    except TransparencyError as error:
        raise _malformed(f"{error.message}: {error.detail}") from error
    origin = unverified.checkpoint.origin
    if origin not in logs:
        raise WitnessRefusalError(Answer.UNKNOWN, detail=origin)
    try:
        return verify_log_signature(unverified, logs[origin])
    except TransparencyError as error:
        raise WitnessRefusalError(Answer.UNSIGNED, detail=f"{error.message}: {error.detail}") from error


def _check_continues(before: Head, signed: LogCheckpoint, proof: Sequence[bytes]) -> None:
    checkpoint = signed.checkpoint
    detail = f"from {before.size} to {checkpoint.size}"
    is_fork = checkpoint.size == before.size and checkpoint.root != before.root
    try:
        verify_consistency(before.size, before.root, checkpoint.size, checkpoint.root, proof)
    except InvalidError as error:
        raise WitnessRefusalError(
            Answer.FORKED if is_fork else Answer.INCONSISTENT,
            detail=f"{detail}: {error.message}",
            evidence=Note(signed.note.text, signed.signatures).encode(),
        ) from error


def _malformed(detail: str) -> WitnessRefusalError:
    return WitnessRefusalError(Answer.MALFORMED, detail=detail)
