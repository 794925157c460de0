"""SPIFFE IDs and trust domains, parsed strictly.

Owns: the grammar and the comparison of identities. Nothing is normalised: input
that is not already canonical is refused, so two equal identities are equal bytes.

Source: SPIFFE-ID, sections 2.1 to 2.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hopseal.errors import InvalidError

MAX_SPIFFE_ID_BYTES = 256  # custody-wire §12; the SPIFFE-ID document allows 2,048
MAX_TRUST_DOMAIN_BYTES = 255  # SPIFFE-ID §2.1

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_SCHEME = "spiffe://"


class IdentityError(InvalidError):
    """Text is not a canonical SPIFFE ID or trust domain (code ``identity_malformed``)."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__("identity_malformed", message, detail=detail)


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """A trust domain name; build with :meth:`parse`."""

    name: str

    @classmethod
    def parse(cls, text: str) -> TrustDomain:
        """The trust domain that ``text`` names (without scheme).

        Raises:
            IdentityError: ``text`` is empty, too long or has a character outside the grammar.
        """
        if len(text) > MAX_TRUST_DOMAIN_BYTES:
            raise IdentityError("trust domain is longer than 255 bytes")
        if _TRUST_DOMAIN.fullmatch(text) is None:
            raise IdentityError(
                "trust domain may hold lower-case letters, digits, dots, dashes and underscores",
                detail=repr(text),
            )
        return cls(text)

    @property
    def id(self) -> str:
        """The trust domain as a SPIFFE ID without path."""
        return _SCHEME + self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A workload's SPIFFE ID (with a path); build with :meth:`parse`. Never equal to text."""

    trust_domain: TrustDomain
    path: str

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """The SPIFFE ID in ``text``.

        Raises:
            IdentityError: not canonical, no path, an empty or dot segment, or over 256 bytes.
        """
        if len(text) > MAX_SPIFFE_ID_BYTES:
            raise IdentityError("SPIFFE ID is longer than 256 bytes")
        if not text.startswith(_SCHEME):
            raise IdentityError("SPIFFE ID does not start with spiffe://", detail=repr(text))
        name, slash, path = text[len(_SCHEME) :].partition("/")
        trust_domain = TrustDomain.parse(name)
        if not slash:
            raise IdentityError("SPIFFE ID has no path", detail=repr(text))
        for segment in path.split("/"):
            if segment in {".", ".."} or _SEGMENT.fullmatch(segment) is None:
                raise IdentityError("SPIFFE ID has an empty, dot or malformed path segment", detail=repr(text))
        return cls(trust_domain, "/" + path)

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain.name}{self.path}"
