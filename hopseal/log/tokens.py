"""User tokens as logs keep them: their claims, against what a root says about on whose behalf it acts.

Owns: the comparison. Does not own: the token's signature, which no log keeps; its issuer's own log shows that it was
issued, under the same hash.
Source: custody-wire §6.12, §8.1, §10 "User tokens".
"""

from __future__ import annotations

from collections.abc import Mapping

from hopseal.custody.delegation import OnBehalfOf
from hopseal.custody.errors import Code, refusal
from hopseal.custody.record import SealedRecord
from hopseal.limits import CLOCK_SKEW_S
from hopseal.log.entries import TokenEntry


def check_token(root: SealedRecord, obo: OnBehalfOf, token: TokenEntry) -> None:
    """Return if ``token`` says what the root's ``obo`` says, and was issued to the root's component.

    Raises:
        CustodyError: [authority].
    """
    record, claims = root.record, token.claims
    for name, value in (("iss", obo.iss), ("sub", obo.sub), ("exp", obo.exp)):
        if claims.get(name) != value:
            raise refusal(Code.AUTHORITY, f"obo.{name} is not that of the user's token")
    if obo.txn is not None and claims.get("txn") != obo.txn:
        raise refusal(Code.AUTHORITY, "obo.txn is not that of the user's token")
    if not _is_issued_to(root, token):
        raise refusal(Code.AUTHORITY, f"the user's token was not issued to {record.iss}")
    if not _is_valid_at(record.iat, claims, obo.exp):
        raise refusal(Code.AUTHORITY, f"the user's token was not valid at {record.iat}")
    scope = record.auth.scope if record.auth else None
    # None at all would be every scope.
    if scope is None or not scope <= set(str(claims.get("scope", "")).split(" ")):
        raise refusal(Code.AUTHORITY, "auth.scope is not within the user's token")


def _is_valid_at(at: int, claims: Mapping[str, object], exp: int) -> bool:
    begins = [value for name in ("iat", "nbf") if isinstance(value := claims.get(name), int)]
    return max(begins, default=0) - CLOCK_SKEW_S <= at < exp + CLOCK_SKEW_S


def _is_issued_to(root: SealedRecord, token: TokenEntry) -> bool:
    """The workload that the token names: ``req_wl``, else ``cnf``, else ``client_id``, else the outermost actor.

    A client ID that is no SPIFFE ID means what the log's writer says that its configuration makes of it.
    """
    claims = token.claims
    if "req_wl" in claims:
        return bool(claims["req_wl"] == str(root.record.iss))
    if "cnf" in claims:
        return _member(claims["cnf"], "x5t#S256") == root.statement.seal.x5t
    client = claims["client_id"] if "client_id" in claims else _member(claims.get("act"), "sub")
    workload = client if str(client).startswith("spiffe://") else token.workload
    return workload == str(root.record.iss)


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else None
