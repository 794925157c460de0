"""A log's own signature on its checkpoints.

Owns: making and verifying it. Does not own: the text (``checkpoint``); the origins that are trusted (``policy``).
Source: c2sp.org/tlog-checkpoint, "Signatures".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hopseal.log.checkpoint import Checkpoint, UnverifiedCheckpoint
from hopseal.log.cosignature import cosign, verify_cosignature
from hopseal.log.note import (
    COSIGNATURE_ML_DSA_44,
    ED25519,
    Note,
    Signature,
    Signer,
    VerifierKey,
    sign_note,
    verify_raw,
)
from hopseal.log.refusals import Reason, TransparencyError

LOG_ALGORITHMS: Final = frozenset({ED25519, COSIGNATURE_ML_DSA_44})


@dataclass(frozen=True, slots=True)
class LogCheckpoint:
    """A checkpoint that its log signed; made by :func:`verify_log_signature` only.

    Args:
        checkpoint: what the log claims.
        note: as it was read, with signatures that nobody verified too.
        signatures: the log's own, each verified; at least one.
    """

    checkpoint: Checkpoint
    note: Note
    signatures: tuple[Signature, ...]


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer, at: int = 0) -> bytes:
    """The signed note of a checkpoint.

    Args:
        checkpoint: what the log claims.
        signer: the log's key, of type 0x01 or 0x06.
        at: seconds since 1970; only a signature of type 0x06 carries it.
    """
    if signer.key.algorithm == ED25519:
        signature = sign_note(checkpoint.text, signer)
    else:
        signature = cosign(checkpoint, signer, at)
    return Note(checkpoint.text, (signature,)).encode()


def verify_log_signature(unverified: UnverifiedCheckpoint, keys: Iterable[VerifierKey]) -> LogCheckpoint:
    """The checkpoint, signed by at least one of ``keys``, which are those trusted for its origin.

    Raises:
        TransparencyError: [note_unsigned] no signature is by one of them; [note_signature] one of them does not hold.
    """
    checkpoint, note = unverified.checkpoint, unverified.note
    verified = []
    for key in keys:
        for signature in note.signed_by(key):
            _verify(key, signature, unverified)
            verified.append(signature)
    if not verified:
        raise TransparencyError(Reason.UNSIGNED, f"origin {checkpoint.origin}")
    return LogCheckpoint(checkpoint, note, tuple(verified))


def _verify(key: VerifierKey, signature: Signature, unverified: UnverifiedCheckpoint) -> None:
    if key.algorithm == ED25519:
        verify_raw(key, signature.value, unverified.note.text.encode())
    elif unverified.checkpoint.extensions:
        # Such a signature does not cover them, so nobody would have signed this text.
        raise TransparencyError(Reason.SIGNATURE, f"by {key.name}: over extension lines, which it does not cover")
    else:
        verify_cosignature(key, signature, unverified.checkpoint)
