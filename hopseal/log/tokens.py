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
    scope = record.auth.scope if record.auth else None
    if scope is not None and not scope <= set(str(claims.get("scope", "")).split(" ")):
        raise refusal(Code.AUTHORITY, "auth.scope is not within the user's token")


def _is_issued_to(root: SealedRecord, token: TokenEntry) -> bool:
    """The workload that the token names: ``req_wl``, else ``cnf``, else ``client_id`` or the outermost actor.

    A client ID that is no SPIFFE ID means what the log's writer says that its configuration makes of it.
    """
    claims = token.claims
    if "req_wl" in claims:
        return bool(claims["req_wl"] == str(root.record.iss))
    confirmation = claims.get("cnf")
    if isinstance(confirmation, Mapping) and "x5t#S256" in confirmation:
        return bool(root.statement.seal.x5t == confirmation["x5t#S256"])
    actor = claims.get("act")
    subjects = {claims.get("client_id"), actor.get("sub") if isinstance(actor, Mapping) else None}
    is_named = any(str(subject).startswith("spiffe://") for subject in subjects)
    return str(root.record.iss) in subjects or (not is_named and token.workload == str(root.record.iss))
