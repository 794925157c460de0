"""Cosignatures: timestamped statements of a witness that a checkpoint continues all that it saw of the log.

Owns: the two signed messages, and the signature lines that carry a time.
Does not own: deciding whether to cosign (``witness``); which witnesses are enough (``policy``).
Source: c2sp.org/tlog-cosignature.
Security: the Ed25519 message does not hold the cosigner's name, so one Ed25519 key serves one cosigner.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from hopseal.log.checkpoint import Checkpoint
from hopseal.log.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_ML_DSA_44,
    Signature,
    Signer,
    VerifierKey,
    verify_raw,
)
from hopseal.log.refusals import Reason, TransparencyError

COSIGNATURE_ALGORITHMS: Final = frozenset({COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44})
MAX_TIME: Final = 2**63 - 1

_LABEL = b"subtree/v1\n\0"
_TIME_BYTES = 8


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A verified cosignature; made by :func:`verify_cosignature` only.

    Args:
        key: whose it is.
        time: when it was made, seconds since 1970, as the cosigner says; 0 if it does not say.
        signature: the line.
    """

    key: VerifierKey
    time: int
    signature: Signature


def cosign(checkpoint: Checkpoint, signer: Signer, at: int) -> Signature:
    """The cosignature line of ``signer``, a key of type 0x04 or 0x06, made at ``at`` (seconds since 1970)."""
    value = signer.sign(cosigned_message(signer.key, checkpoint, at))
    return Signature(signer.key.name, signer.key.key_id, at.to_bytes(_TIME_BYTES, "big") + value)


def verify_cosignature(key: VerifierKey, signature: Signature, checkpoint: Checkpoint) -> Cosignature:
    """The cosignature, which is by ``key`` and over ``checkpoint``.

    Raises:
        TransparencyError: [note_signature] it does not hold, or its time cannot be.
    """
    time = int.from_bytes(signature.value[:_TIME_BYTES], "big")
    if len(signature.value) <= _TIME_BYTES or time > MAX_TIME:
        raise TransparencyError(Reason.SIGNATURE, f"by {key.name}: no time that can be")
    verify_raw(key, signature.value[_TIME_BYTES:], cosigned_message(key, checkpoint, time))
    return Cosignature(key, time, signature)


def cosigned_message(key: VerifierKey, checkpoint: Checkpoint, time: int) -> bytes:
    """The exact bytes that a cosignature over ``checkpoint`` at ``time`` signs."""
    if key.algorithm == COSIGNATURE_ED25519:
        return f"cosignature/v1\ntime {time}\n{checkpoint.text}".encode()
    fields = (_prefixed(key.name), struct.pack(">Q", time), _prefixed(checkpoint.origin))
    return b"".join((_LABEL, *fields, struct.pack(">QQ", 0, checkpoint.size), checkpoint.root))


def _prefixed(text: str) -> bytes:
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded
