"""The custody error codes and what each means on HTTP and gRPC.

Owns: the one table from code to status and retry rule, and the problem document.
Source: custody-wire §13, RFC 9457.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from hopseal.errors import DeniedError, HopsealError, InvalidError, UnavailableError

PROBLEM_TYPE_BASE = "https://hopseal.dev/errors/"


class Code(StrEnum):
    """Stable reason codes; what a peer may see of a refusal."""

    MISSING = "custody_missing"
    UNRESOLVED = "custody_unresolved"
    MALFORMED = "custody_malformed"
    DUPLICATE = "custody_duplicate"
    SIGNATURE = "custody_signature"
    UNTRUSTED = "custody_untrusted"
    IDENTITY = "custody_identity"
    CHAIN = "custody_chain"
    BINDING = "custody_binding"
    AUDIENCE = "custody_audience"
    EXPIRED = "custody_expired"
    REPLAYED = "custody_replayed"
    AUTHORITY = "custody_authority"
    FORBIDDEN = "custody_forbidden"
    TOO_LARGE = "custody_too_large"
    TOO_LONG = "custody_too_long"
    EARLY_DATA = "custody_early_data"
    RECEIPT_UNAVAILABLE = "custody_receipt_unavailable"
    UNAVAILABLE = "custody_unavailable"


class Retry(StrEnum):
    """What a caller may do about a refusal; everything but ``yes`` at most once."""

    NO = "no"
    YES = "yes"
    WITH_RECORD = "with_record"
    WITH_ITEMS = "with_items"
    NEW_RECORD = "new_record"


class CustodyError(HopsealError):
    """Root of every refusal by this package; also belongs to one of the four families.

    Args:
        code: why.
        detail: for the operator's log only.
        missing: ``cert:<thumbprint>`` or ``rec:<statement hash>``; only with ``custody_unresolved``.
    """

    def __init__(self, code: Code, *, detail: str = "", missing: tuple[str, ...] = ()) -> None:
        self.rule = RULES[code]
        super().__init__(code.value, self.rule.title, detail=detail)
        self.missing = missing


class CustodyInvalidError(CustodyError, InvalidError):
    """The message or chain is wrong."""


class CustodyDeniedError(CustodyError, DeniedError):
    """The chain is right and does not allow this call."""


class CustodyUnavailableError(CustodyError, UnavailableError):
    """Something that verification needs is not there now; fail closed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one code appears outside.

    Args:
        http: status.
        grpc: status name.
        retry: what the caller may do.
        title: sentence that is safe for the caller.
        error: class that carries the code.
    """

    http: int
    grpc: str
    retry: Retry
    title: str
    error: type[CustodyError] = CustodyInvalidError


_DENIED = CustodyDeniedError
_DOWN = CustodyUnavailableError
RULES = MappingProxyType(
    {
        Code.MISSING: Rule(428, "FAILED_PRECONDITION", Retry.WITH_RECORD, "a custody record is required"),
        Code.UNRESOLVED: Rule(428, "FAILED_PRECONDITION", Retry.WITH_ITEMS, "referenced items are not known here"),
        Code.MALFORMED: Rule(400, "INVALID_ARGUMENT", Retry.NO, "a custody field does not follow the format"),
        Code.DUPLICATE: Rule(400, "INVALID_ARGUMENT", Retry.NO, "a custody field occurs more than once"),
        Code.SIGNATURE: Rule(400, "UNAUTHENTICATED", Retry.NO, "a seal does not hold"),
        Code.UNTRUSTED: Rule(400, "UNAUTHENTICATED", Retry.NO, "a certificate is not trusted"),
        Code.IDENTITY: Rule(400, "UNAUTHENTICATED", Retry.NO, "a record and its certificate name different identities"),
        Code.CHAIN: Rule(400, "UNAUTHENTICATED", Retry.NO, "the records do not form a chain"),
        Code.BINDING: Rule(400, "UNAUTHENTICATED", Retry.NO, "the record was made for another request"),
        Code.AUDIENCE: Rule(400, "UNAUTHENTICATED", Retry.NO, "the record was made for another receiver"),
        Code.EXPIRED: Rule(400, "UNAUTHENTICATED", Retry.NEW_RECORD, "the record is not valid now"),
        Code.REPLAYED: Rule(400, "ALREADY_EXISTS", Retry.NO, "the record was used before"),
        Code.AUTHORITY: Rule(
            403, "PERMISSION_DENIED", Retry.NO, "the chain grants no authority for this call", _DENIED
        ),
        Code.FORBIDDEN: Rule(403, "PERMISSION_DENIED", Retry.NO, "policy refuses this chain", _DENIED),
        Code.TOO_LARGE: Rule(431, "RESOURCE_EXHAUSTED", Retry.NO, "a custody field is too large"),
        Code.TOO_LONG: Rule(431, "RESOURCE_EXHAUSTED", Retry.NO, "the chain has too many hops"),
        Code.EARLY_DATA: Rule(425, "UNAVAILABLE", Retry.YES, "custody is not accepted in early data", _DOWN),
        Code.RECEIPT_UNAVAILABLE: Rule(501, "UNIMPLEMENTED", Retry.NO, "no receipt can be signed here"),
        Code.UNAVAILABLE: Rule(503, "UNAVAILABLE", Retry.YES, "custody cannot be verified now", _DOWN),
    }
)


def refusal(code: Code, detail: str = "", *, missing: tuple[str, ...] = ()) -> CustodyError:
    """The error of the right family for ``code``, ready to raise."""
    return RULES[code].error(code, detail=detail, missing=missing)


def malformed(detail: str) -> CustodyError:
    """A [malformed] refusal; ``detail`` says which rule of the grammar does not hold."""
    return refusal(Code.MALFORMED, detail)


def problem(error: CustodyError) -> dict[str, object]:
    """The RFC 9457 members for ``error``; no detail, no hash beyond ``missing``."""
    document: dict[str, object] = {
        "type": PROBLEM_TYPE_BASE + error.code,
        "title": error.message,
        "status": error.rule.http,
        "code": error.code,
    }
    if error.missing:
        document["missing"] = list(error.missing)
    return document
