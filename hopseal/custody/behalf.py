"""On whose behalf a chain acts: the user token of the message against the claims of the chain's root.

Owns: step 12 of the receiver for roots with a user: which header field brings the token, and that token, user, workload
and scope are those of the root. Does not own: the token itself (``usertoken``), policy on unverified users.
Source: custody-wire §6.12, §8.1 and §8.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from hopseal.custody.authority import Authority
from hopseal.custody.binding import OWS, Header
from hopseal.custody.delegation import OnBehalfOf
from hopseal.custody.errors import Code, CustodyError, refusal
from hopseal.custody.record import SealedRecord
from hopseal.custody.usertoken import Issuers, TokenType, UserToken, token_hash, verify_token
from hopseal.ids import TrustDomain

TOKEN_FIELDS = MappingProxyType({TokenType.TRANSACTION.value: "txn-token", TokenType.ACCESS.value: "authorization"})


@dataclass(frozen=True, slots=True)
class Behalf:
    """The user that a chain acts for.

    Args:
        obo: as the root claims it.
        token: the verified token; None if only the root's signer asserts the user (``obo_verified`` is false).
    """

    obo: OnBehalfOf
    token: UserToken | None

    @property
    def verified(self) -> bool:
        """Whether the issuer's token was verified here."""
        return self.token is not None


def verify_behalf(
    root: SealedRecord, authority: Authority, headers: Sequence[Header], issuers: Issuers, own: TrustDomain, now: int
) -> Behalf | None:
    """The user of a chain whose first record is ``root``; None if it acts on nobody's behalf.

    The issuer's keys may be missing only for a root of another trust domain than ``own``: then the user is as the
    root's signer says, and local policy decides whether that is enough.

    Raises:
        CustodyError: [authority], [unavailable].
    """
    obo = root.record.obo
    if obo is None:
        return None
    if (obo.iss, obo.typ) not in issuers:
        if root.record.iss.trust_domain == own:
            raise _refused("the issuer of the root's token is not configured")
        return Behalf(obo, None)
    text = presented_token(headers, obo.typ)
    if text is None:
        raise _refused("the message does not bring the root's token")
    if token_hash(text) != obo.th:
        raise _refused("the message brings another token than the root's")
    token = verify_token(text, obo.typ, issuers, now)
    if token.obo != obo:
        raise _refused("the root says something else about the user than the token")
    if not token.holder.is_for(root.record.iss, root.statement.seal.x5t):
        raise _refused("the token was issued to another workload than the root's")
    check_scope(authority, token)
    return Behalf(obo, token)


def check_scope(authority: Authority, token: UserToken) -> None:
    """Return if ``authority`` has a scope and it is within the token's; none at all would be every scope.

    Raises:
        CustodyError: [authority].
    """
    if authority.scope is None or not authority.scope <= token.scope:
        raise _refused("the root's scope is not within the token's")


def presented_token(headers: Sequence[Header], typ: str) -> str | None:
    """The token in the one field line for its type; None without such a line, with several, or another scheme."""
    values = [value.strip(OWS) for name, value in headers if name.lower() == TOKEN_FIELDS[typ]]
    if len(values) != 1:
        return None
    if typ == TokenType.TRANSACTION:
        return values[0]
    scheme, _, credentials = values[0].partition(" ")
    return credentials if scheme.lower() == "bearer" else None


def _refused(detail: str) -> CustodyError:
    return refusal(Code.AUTHORITY, detail)
