"""What ``broker.yaml`` says about users: issuers of their tokens, and boundaries towards other trust domains.

Owns: the keys under ``issuers`` and ``boundaries``. Does not own: fetching keys (``broker.issuers``), deciding.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from broker.names import parse_component
from hopseal.custody.errors import CustodyError
from hopseal.custody.patterns import read_id_pattern
from hopseal.custody.usertoken import TokenType
from hopseal.errors import InvalidError
from hopseal.ids import IdentityError, SpiffeId, TrustDomain
from hopseal.limits import MAX_TOKEN_AUDIENCES, MAX_TOKEN_TEXT_BYTES
from hopseal.settings import Section

DEFAULT_REFRESH_S, MAX_REFRESH_S = 300.0, 86_400.0
DEFAULT_MAX_AGE_S, MAX_MAX_AGE_S = 86_400.0, 604_800.0
_NOBODY = SpiffeId.parse("spiffe://invalid/nobody")


@dataclass(frozen=True, slots=True)
class IssuerConfig:
    """One issuer of user tokens.

    Args:
        name: ``iss`` of its tokens.
        typ: type of its tokens.
        audiences: one of them must be in a token's ``aud``.
        source: file or URL of its JSON Web Key set.
        ca_file: authorities for the URL's certificate; None for those of the system.
        clients: SPIFFE ID by client ID.
        refresh_s: seconds between two fetches of a URL.
        max_age_s: seconds for which keys are used that can no longer be fetched.
    """

    name: str
    typ: TokenType
    audiences: tuple[str, ...]
    source: Path | str
    ca_file: Path | None = None
    clients: Mapping[str, SpiffeId] = field(default_factory=dict)
    refresh_s: float = DEFAULT_REFRESH_S
    max_age_s: float = DEFAULT_MAX_AGE_S


@dataclass(frozen=True, slots=True)
class Boundary:
    """How chains cross between this trust domain and another.

    Args:
        sealed: calls towards it begin a new chain that hides this one (custody-wire §8.4).
        gateways: patterns of its components that may do the same towards us.
        unverified_users: its roots may name users whose issuer is not among ours.
        components: those that can be called, by ``agent/component`` as its own documents name them.
    """

    sealed: bool = False
    gateways: tuple[str, ...] = ()
    unverified_users: bool = False
    components: Mapping[str, SpiffeId] = field(default_factory=dict)


def read_issuers(top: Section) -> tuple[IssuerConfig, ...]:
    """The list ``issuers``."""
    found: dict[tuple[str, TokenType], IssuerConfig] = {}
    for section in top.section_list("issuers"):
        issuer = _read_issuer(section)
        if (issuer.name, issuer.typ) in found:
            section.mistake("issuer", f"{issuer.name} is listed twice", "list each issuer once for each type")
        found[issuer.name, issuer.typ] = issuer
    return tuple(found.values())


def read_boundaries(top: Section) -> Mapping[str, Boundary]:
    """The mapping ``boundaries``, by name of the other trust domain."""
    boundaries = top.section("boundaries")
    found: dict[str, Boundary] = {}
    for name in sorted(boundaries.keys()):
        section = boundaries.section(name)
        try:
            TrustDomain.parse(name)
        except IdentityError as error:
            boundaries.mistake(name, error.message, "write the name of a trust domain, without spiffe://")
        found[name] = Boundary(
            sealed=section.choice("egress", ("full", "sealed"), default="full") == "sealed",
            gateways=tuple(_read_gateway(section, text, name) for text in section.texts("gateways")),
            unverified_users=section.flag("unverified_users", default=False),
            components=_read_components(section.section("components"), name),
        )
    return found


def _read_issuer(section: Section) -> IssuerConfig:
    audiences = section.texts("audience")
    if not 1 <= len(audiences) <= MAX_TOKEN_AUDIENCES:
        section.mistake("audience", f"must list 1 to {MAX_TOKEN_AUDIENCES} texts", "list what the tokens' aud names")
    return IssuerConfig(
        name=section.parsed("issuer", _parse_name, "invalid"),
        typ=TokenType(section.choice("type", tuple(TokenType))),
        audiences=audiences,
        source=_read_source(section),
        ca_file=section.path("ca_file") if "ca_file" in section else None,
        clients=_read_clients(section),
        refresh_s=section.number("refresh_s", default=DEFAULT_REFRESH_S, minimum=1.0, maximum=MAX_REFRESH_S),
        max_age_s=section.number("max_age_s", default=DEFAULT_MAX_AGE_S, minimum=1.0, maximum=MAX_MAX_AGE_S),
    )


def _read_source(section: Section) -> Path | str:
    has_file, has_url = "jwks_file" in section, "jwks_url" in section
    if has_file == has_url:
        section.report("needs one of jwks_file and jwks_url", "say where the issuer's keys are")
    return section.parsed("jwks_url", parse_jwks_url, "") if has_url else section.path("jwks_file", default="/invalid")


def parse_jwks_url(text: str) -> str:
    """``text``, an https URL, or an http URL of the loopback interface.

    Raises:
        InvalidError: it is something else (``url_malformed``).
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise _malformed_url(text) from error
    if not host or parts.username is not None or parts.fragment or not text.isascii() or not text.isprintable():
        raise _malformed_url(text)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return text
    raise _malformed_url(text)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_clients(section: Section) -> Mapping[str, SpiffeId]:
    clients = section.section("clients")
    return {name: clients.parsed(name, SpiffeId.parse, _NOBODY) for name in sorted(clients.keys())}


def _read_components(section: Section, trust_domain: str) -> Mapping[str, SpiffeId]:
    found: dict[str, SpiffeId] = {}
    for name in sorted(section.keys()):
        try:
            parse_component(name)
        except InvalidError as error:
            section.mistake(name, error.message, error.remedy)
        found[name] = section.parsed(name, SpiffeId.parse, _NOBODY)
        if found[name] != _NOBODY and found[name].trust_domain.name != trust_domain:
            section.mistake(name, f"is not of trust domain {trust_domain}", "list it under its own")
    return found


def _read_gateway(section: Section, text: str, trust_domain: str) -> str:
    try:
        read_id_pattern(text, "gateway")
    except CustodyError as error:
        section.mistake("gateways", error.detail, "write a SPIFFE ID, or one followed by /*")
        return text
    if not text.startswith(f"spiffe://{trust_domain}/"):
        section.mistake(
            "gateways", f"{text} is not of trust domain {trust_domain}", "list it under its own trust domain"
        )
    return text


def _parse_name(text: str) -> str:
    if len(text.encode()) > MAX_TOKEN_TEXT_BYTES:
        raise InvalidError("issuer_malformed", f"is longer than {MAX_TOKEN_TEXT_BYTES} bytes", remedy="write its iss")
    return text


def _malformed_url(text: str) -> InvalidError:
    return InvalidError(
        "url_malformed", f"{text!r} is no https URL", remedy="write https://…, or http:// with a loopback address"
    )
