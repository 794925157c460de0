"""Why a text of a transparency log is refused: one stable code for each reason, with what to do next.

Owns: the codes of notes, checkpoints, cosignatures, proofs, policies and witnesses.
Does not own: the checks, which stand where the text is read.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType

from hopseal.errors import InvalidError


class Reason(StrEnum):
    """Stable reason codes."""

    NOTE = "note_malformed"
    VKEY = "vkey_invalid"
    UNSIGNED = "note_unsigned"
    SIGNATURE = "note_signature"
    CHECKPOINT = "checkpoint_malformed"
    ORIGIN = "checkpoint_origin"
    PROOF = "proof_malformed"
    QUORUM = "quorum_missed"
    POLICY = "policy_invalid"
    ANSWER = "witness_answer_malformed"


_TEXTS = MappingProxyType(
    {
        Reason.NOTE: ("a text is no signed note", "ask the log or the witness for it again; do not edit it"),
        Reason.VKEY: ("a text is no verifier key", "copy the whole key: name+id+base64"),
        Reason.UNSIGNED: ("no key that is trusted here signed the note", "compare the key that its owner publishes"),
        Reason.SIGNATURE: ("a signature does not hold", "treat the note as forged, and find out who altered it"),
        Reason.CHECKPOINT: ("a note is no checkpoint", "ask the log for its checkpoint again"),
        Reason.ORIGIN: ("no log of that origin is known here", "add the log's key if it is one to trust"),
        Reason.PROOF: ("a text is no proof of a log", "export the evidence again"),
        Reason.QUORUM: ("too few witnesses cosigned the checkpoint", "wait for the witnesses, or check the policy"),
        Reason.POLICY: ("a log policy is wrong", "correct the line that is named"),
        Reason.ANSWER: ("a witness answered what the protocol does not have", "check its address; tell its operator"),
    }
)


class TransparencyError(InvalidError):
    """A text of a log, witness or policy is wrong.

    Args:
        reason: why.
        detail: which rule does not hold.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        message, remedy = _TEXTS[reason]
        super().__init__(reason.value, message, detail=detail, remedy=remedy)
        self.reason = reason
