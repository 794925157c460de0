"""User tokens of configured issuers: Transaction Tokens and RFC 9068 access tokens, verified strictly.

Owns: what a token must show before anybody acts on its user's behalf. Does not own: key sets (``jwks``), how a chain
binds a token (``behalf``).

A token is accepted only if all of this holds, in this order:
1. its text is a compact JWS of bounded size with strict base64url and JSON without duplicate members,
2. its issuer is configured for this type of token,
3. its header has the right ``typ``, no ``crit``, and names a key of that issuer (or the issuer has only one),
4. the signature holds with an algorithm that the key allows,
5. ``exp``, ``nbf`` and ``iat`` hold now, ``aud`` names us,
6. it says who the user is and which workload it was issued to.

Source: custody-wire §6.12, §8.1 and §9.1; RFC 7515, RFC 7519, RFC 8725 §3, RFC 9068 §4;
draft-ietf-oauth-transaction-tokens-08.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from hopseal.custody.authority import read_scope
from hopseal.custody.delegation import OnBehalfOf
from hopseal.custody.encoding import decode_b64url, encode_b64url, parse_token_object, sha256
from hopseal.custody.errors import Code, CustodyError, refusal
from hopseal.custody.jwks import IssuerKey, choose_key
from hopseal.custody.members import Members, list_of, read_hash, read_integer, text_up_to
from hopseal.ids import SpiffeId
from hopseal.limits import (
    CLOCK_SKEW_S,
    MAX_KEY_ID_BYTES,
    MAX_TOKEN_AUDIENCES,
    MAX_TOKEN_BYTES,
    MAX_TOKEN_TEXT_BYTES,
)


class TokenType(StrEnum):
    """Types of token that can be verified, as ``obo.typ`` names them."""

    TRANSACTION = "txn"
    ACCESS = "at"


_JWT_TYPES = MappingProxyType({TokenType.TRANSACTION: "txntoken+jwt", TokenType.ACCESS: "at+jwt"})
_read_name = text_up_to(MAX_TOKEN_TEXT_BYTES, min_bytes=1)
_read_audiences = list_of(_read_name, MAX_TOKEN_AUDIENCES)


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who issues tokens that count here.

    Args:
        name: ``iss`` of its tokens, compared byte for byte.
        typ: type of its tokens.
        audiences: one of them must be in a token's ``aud``.
        keys: None while none are known: then nothing of it can be verified.
        clients: SPIFFE ID by client ID, for an issuer that names workloads otherwise.
    """

    name: str
    typ: TokenType
    audiences: frozenset[str]
    keys: tuple[IssuerKey, ...] | None
    clients: Mapping[str, str] = field(default_factory=dict)


Issuers = Mapping[tuple[str, str], Issuer]  # by name and type
NO_ISSUERS: Issuers = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Holder:
    """The workload that a token was issued to: by SPIFFE ID, or by the thumbprint of its certificate."""

    spiffe_id: str | None
    x5t: str | None

    def is_for(self, workload: SpiffeId, x5t: str) -> bool:
        """Whether this is ``workload``, whose certificate has thumbprint ``x5t``."""
        return self.x5t == x5t if self.spiffe_id is None else self.spiffe_id == str(workload)


@dataclass(frozen=True, slots=True)
class UserToken:
    """A token that was verified; built by :func:`verify_token` only.

    Args:
        obo: what a root says about it.
        scope: empty if it grants none.
        holder: workload it was issued to.
        kid: key that signed it; None if the issuer's only key has no name.
        claims: the decoded payload, what a log may keep of it.
        text: the token itself, a credential: it goes into its header field and nowhere else.
    """

    obo: OnBehalfOf
    scope: frozenset[str]
    holder: Holder
    kid: str | None
    claims: Mapping[str, object] = field(repr=False)
    text: str = field(repr=False)


def verify_token(text: str, typ: str, issuers: Issuers, now: int) -> UserToken:
    """The token in ``text``; ``now`` in NumericDate seconds.

    Raises:
        CustodyError: [authority] for the first rule that does not hold; [unavailable] while no key is known.
    """
    try:
        return _verify(text, typ, issuers, now)
    except CustodyError as error:
        if error.code != Code.MALFORMED:
            raise
        raise _refused(error.detail) from error


def token_hash(text: str) -> str:
    """``th``: the hash that a root names a token by. Source: custody-wire §8.1."""
    return encode_b64url(sha256(text.encode("ascii", "replace")))


def _verify(text: str, typ: str, issuers: Issuers, now: int) -> UserToken:
    if len(text) > MAX_TOKEN_BYTES or text.count(".") != 2:  # 1
        raise _refused("it is not a compact JWS of bounded size")
    signing_input, _, signature = text.rpartition(".")
    header, claims = (Members(parse_token_object(decode_b64url(part)), "") for part in signing_input.split("."))
    raw_signature = decode_b64url(signature)
    issuer = issuers.get((claims.required("iss", _read_name), typ))  # 2
    if issuer is None:
        raise _refused("its issuer is not configured")
    kid = header.optional("kid", text_up_to(MAX_KEY_ID_BYTES, min_bytes=1))  # 3
    jwt_type = header.required("typ", _read_name).lower().removeprefix("application/")
    if "crit" in header.values or jwt_type != _JWT_TYPES[issuer.typ]:
        raise _refused("its header is that of another kind of token")
    algorithm = header.required("alg", _read_name)
    if issuer.keys is None:
        raise refusal(Code.UNAVAILABLE, "the keys of the token's issuer are not known")
    key = choose_key(issuer.keys, kid)
    if key is None:
        raise _refused("its key is not one of the issuer's")
    if not key.verifies(algorithm, signing_input.encode("ascii"), raw_signature):  # 4
        raise _refused("its signature does not hold")
    _check_validity(claims, issuer, now)  # 5
    return _read_claims(text, claims, issuer, kid)  # 6


def _check_validity(claims: Members, issuer: Issuer, now: int) -> None:
    exp, iat = claims.required("exp", read_integer), claims.required("iat", read_integer)
    not_before = max(iat, claims.optional("nbf", read_integer) or 0)
    if not not_before - CLOCK_SKEW_S <= now < exp + CLOCK_SKEW_S:
        raise _refused("it is not valid now")
    aud = claims.values.get("aud")
    audiences = (_read_name(aud, "aud"),) if isinstance(aud, str) else _read_audiences(aud, "aud")
    if issuer.audiences.isdisjoint(audiences):
        raise _refused("it is meant for somebody else")


def _read_claims(text: str, claims: Members, issuer: Issuer, kid: str | None) -> UserToken:
    is_transaction = issuer.typ is TokenType.TRANSACTION
    obo = OnBehalfOf(
        iss=issuer.name,
        sub=claims.required("sub", _read_name),
        typ=issuer.typ.value,
        th=token_hash(text),
        exp=claims.required("exp", read_integer),
        txn=claims.required("txn", _read_name) if is_transaction else claims.optional("txn", _read_name),
    )
    scope = claims.required("scope", read_scope) if is_transaction else claims.optional("scope", read_scope)
    return UserToken(obo, scope or frozenset(), _read_holder(claims, issuer), kid, claims.values, text)


def _read_holder(claims: Members, issuer: Issuer) -> Holder:
    """``req_wl``, else ``cnf.x5t#S256``, else ``client_id``, else the outermost ``act.sub``."""
    workload = claims.optional("req_wl", _read_name)
    if workload is not None:
        return Holder(workload, None)
    if "cnf" in claims.values:
        return Holder(None, Members.read(claims.values["cnf"], "cnf").required("x5t#S256", read_hash))
    client = claims.optional("client_id", _read_name)
    if client is None:
        client = Members.read(claims.values.get("act"), "act").required("sub", _read_name)
    return Holder(issuer.clients.get(client, client), None)


def _refused(detail: str) -> CustodyError:
    return refusal(Code.AUTHORITY, f"user token: {detail}")
