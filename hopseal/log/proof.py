"""Proofs that something is in a log, and was seen there by witnesses, as one text that needs no network.

Owns: the text of a proof and the steps of its verification.
Does not own: which leaf something has (``leaf``); whom to trust (``policy``).
Source: c2sp.org/tlog-proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from hopseal.custody.encoding import decode_base64
from hopseal.custody.errors import CustodyError
from hopseal.log.checkpoint import parse_hash, parse_number, parse_signed_checkpoint
from hopseal.log.note import MAX_NOTE_BYTES, encode_base64
from hopseal.log.policy import CosignedCheckpoint, Policy
from hopseal.log.refusals import Reason, TransparencyError
from hopseal.log.tree import verify_inclusion

MAX_PATH: Final = 63  # hashes
MAX_EXTRA_BYTES: Final = 16_384
MAX_PROOF_BYTES: Final = MAX_NOTE_BYTES + 32_768

_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof as it was read: nothing of it is verified.

    Args:
        index: of the leaf, from 0.
        path: hashes from the leaf's sibling up.
        checkpoint: the signed note, verbatim.
        extra: opaque and not authenticated; None if there is none.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """The text of the proof."""
        lines = [_HEADER]
        if self.extra is not None:
            lines.append(f"extra {encode_base64(self.extra)}")
        lines += [f"index {self.index}", *map(encode_base64, self.path)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.checkpoint


def parse_proof(data: bytes) -> Proof:
    """The proof in ``data``; of its checkpoint only the format is checked.

    Raises:
        TransparencyError: [proof_malformed], [note_malformed], [checkpoint_malformed].
    """
    if len(data) > MAX_PROOF_BYTES:
        raise _malformed(f"longer than {MAX_PROOF_BYTES} bytes")
    head, divider, checkpoint = data.partition(b"\n\n")
    if not divider:
        raise _malformed("it has no empty line before a checkpoint")
    try:
        first, *lines = head.decode("ascii").split("\n")
        if first != _HEADER:
            raise ValueError("it does not begin as a proof does")  # noqa: TRY301 - one way out for every wrong line
        extra = _parse_extra(lines.pop(0)) if lines and lines[0].startswith("extra ") else None
        index = parse_number(_after("index ", lines))
        if len(lines) - 1 > MAX_PATH:
            raise ValueError(f"more than {MAX_PATH} hashes")  # noqa: TRY301
        path = tuple(map(parse_hash, lines[1:]))
    except ValueError as error:
        raise _malformed(str(error)) from error
    if _size_of(checkpoint) <= index:
        raise _malformed("the index is outside the tree")
    return Proof(index, path, checkpoint, extra)


def verify_proof(proof: Proof, leaf_hash: bytes, policy: Policy, now: int) -> CosignedCheckpoint:
    """The checkpoint that the leaf is in, trusted by ``policy``; its ``time`` dates the leaf.

    Steps of tlog-proof, "Verifying": the caller computes (1) the leaf hash; here (2) the log's signature and (3) the
    cosignatures by the policy, then (4) the path from the leaf to the root.

    Args:
        proof: not verified.
        leaf_hash: 32 bytes.
        policy: which logs and witnesses are trusted.
        now: seconds since 1970; cosignatures from later do not count.

    Raises:
        TransparencyError: see :meth:`Policy.verify`.
        HopsealError: the path does not lead from the leaf to the root; see :func:`verify_inclusion`.
    """
    cosigned = policy.verify(parse_signed_checkpoint(proof.checkpoint), now)
    checkpoint = cosigned.checkpoint
    verify_inclusion(leaf_hash, proof.index, checkpoint.size, proof.path, checkpoint.root)
    return cosigned


@lru_cache(maxsize=64)
def _size_of(checkpoint: bytes) -> int:
    """Cached because the proofs of many leaves have the same checkpoint."""
    return parse_signed_checkpoint(checkpoint).checkpoint.size


def _parse_extra(line: str) -> bytes:
    try:
        extra = decode_base64(line.removeprefix("extra "))
    except CustodyError as error:
        raise ValueError(f"the extra data is wrong: {error.detail}") from error
    if len(extra) > MAX_EXTRA_BYTES:
        raise ValueError(f"more than {MAX_EXTRA_BYTES} bytes of extra data")
    return extra


def _after(prefix: str, lines: list[str]) -> str:
    if not lines or not lines[0].startswith(prefix):
        raise ValueError("the index is missing")
    return lines[0].removeprefix(prefix)


def _malformed(detail: str) -> TransparencyError:
    return TransparencyError(Reason.PROOF, detail)
