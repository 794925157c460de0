"""Reason codes that only an auditor gives; the others are those of the wire and of the transparency log."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType

from hopseal.custody.errors import Code
from hopseal.errors import InvalidError


class AuditCode(StrEnum):
    """Stable, like the wire's."""

    OUTSIDE_VALIDITY = "audit_outside_validity"
    LATE = "audit_late"
    TIMES_APART = "audit_times_apart"
    BUNDLE_LATE = "audit_bundle_late"
    REVOKED = "audit_revoked"
    LOG_KEY = "audit_log_key"
    FORK = "audit_fork"
    RECEIPT = "audit_receipt"
    CLOSING = "audit_closing"
    SEGMENT = "audit_segment"
    KIDS = "audit_kids"
    CITATION = "audit_citation"
    CONTINUATION = "audit_continuation"
    ARTIFACT = "audit_artifact"


MESSAGES = MappingProxyType(
    {
        AuditCode.OUTSIDE_VALIDITY: "made outside of its SVID's lifetime",
        AuditCode.LATE: "first witnessed after the SVID expired",
        AuditCode.TIMES_APART: "witnessed at another time than it says it was made",
        AuditCode.BUNDLE_LATE: "its trust domain's bundle was logged too late to vouch for it",
        AuditCode.REVOKED: "its key was given up before it was witnessed",
        AuditCode.LOG_KEY: "a log announced another key than the policy trusts for it",
        AuditCode.FORK: "a log shows two histories",
        AuditCode.RECEIPT: "a receipt does not fit the record that it names",
        AuditCode.SEGMENT: "a segment does not fit the stream that it is about",
        AuditCode.CLOSING: "a closing statement does not fit the record that it names",
        AuditCode.KIDS: "a receipt does not list the calls that were made for it",
        AuditCode.CITATION: "it cites an answer that was given to another",
        AuditCode.CONTINUATION: "it continues a chain that was not handed to it",
        AuditCode.ARTIFACT: "an entry beside the statements does not hold",
    }
)


class AuditError(InvalidError):
    """A check of the auditor does not hold."""


def audit_refusal(code: AuditCode, detail: str = "") -> AuditError:
    """The error for ``code``, ready to raise."""
    return AuditError(code.value, MESSAGES[code], detail=detail)


def message_of(code: str) -> str:
    """One sentence for an auditor's own code; empty for the others."""
    return MESSAGES[AuditCode(code)] if code in set(AuditCode) else ""


def is_missing(code: str) -> bool:
    """Whether a finding says that something is not there, rather than wrong."""
    return code == Code.UNRESOLVED
