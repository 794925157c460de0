"""What SPIRE Agent sends, as our values; pure.

Everything is checked before it is published: an SVID whose key does not fit, or a bundle that is no
list of certificates, is never handed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from hopseal.errors import InvalidError
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.svid import X509Svid

_SEQUENCE = 0x30  # DER tag of a certificate
_LONG_LENGTH = 0x80


class AnswerMalformedError(InvalidError):
    """SPIRE Agent sent something that is not what its API says (code ``upstream_answer_malformed``)."""

    def __init__(self, detail: str) -> None:
        super().__init__("upstream_answer_malformed", "the identity upstream sent something unreadable", detail=detail)


def parse_trust_domain(text: str) -> TrustDomain:
    """The trust domain in a map key, which is its SPIFFE ID or its name.

    Raises:
        AnswerMalformedError: it is neither.
    """
    try:
        return TrustDomain.parse(text.removeprefix("spiffe://"))
    except InvalidError as error:
        raise AnswerMalformedError(str(error)) from error


def split_certificates(data: bytes) -> tuple[bytes, ...]:
    """The DER certificates that are concatenated in ``data``.

    Raises:
        AnswerMalformedError: anything else is in it.
    """
    found = tuple(_split(data))
    try:
        for each in found:
            x509.load_der_x509_certificate(each)
    except ValueError as error:
        raise AnswerMalformedError(f"certificate: {error}") from error
    return found


def parse_x509_svid(spiffe_id: str, chain_der: Iterable[bytes], key_pkcs8: bytes, hint: str) -> X509Svid:
    """One SVID whose leaf has exactly this ID and this key.

    Raises:
        AnswerMalformedError: it has not.
    """
    chain = tuple(chain_der)
    try:
        parsed_id = SpiffeId.parse(spiffe_id)
        leaf = x509.load_der_x509_certificate(chain[0])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        key = load_der_private_key(key_pkcs8, None).public_key()
        key_fits = _encode(key) == _encode(leaf.public_key())
    except (InvalidError, IndexError, ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise AnswerMalformedError(f"SVID of {spiffe_id!r}: {type(error).__name__}: {error}") from error
    if uris != [str(parsed_id)]:
        raise AnswerMalformedError(f"SVID of {spiffe_id} is made out to {uris}")
    if not key_fits:
        raise AnswerMalformedError(f"SVID of {spiffe_id} comes with another key")
    return X509Svid(parsed_id, chain, key_pkcs8, int(leaf.not_valid_after_utc.timestamp()), hint)


def is_anchored(svid: X509Svid, authorities: tuple[bytes, ...]) -> bool:
    """Whether the top of the SVID's chain was issued by one of ``authorities``, or is one of them."""
    return svid.chain_der[-1] in authorities or _is_issued_by_any(svid.chain_der[-1], authorities)


def choose_svids(svids: Iterable[X509Svid]) -> tuple[X509Svid, ...]:
    """Of each SPIFFE ID and hint the SVID that lasts longest, in the order of first appearance."""
    chosen: dict[tuple[SpiffeId, str], X509Svid] = {}
    for svid in svids:
        present = chosen.get((svid.spiffe_id, svid.hint))
        if present is None or svid.expires_at > present.expires_at:
            chosen[svid.spiffe_id, svid.hint] = svid
    return tuple(chosen.values())


def _split(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        header = data[start : start + 2]
        if len(header) != 2 or header[0] != _SEQUENCE:  # tag and first length byte
            raise AnswerMalformedError("not a list of DER certificates")
        length, content = header[1], start + 2
        if length & _LONG_LENGTH:
            size = length & ~_LONG_LENGTH
            length = int.from_bytes(data[content : content + size], "big")
            content += size
        end = content + length
        if end > len(data):
            raise AnswerMalformedError("a certificate is cut short")
        yield data[start:end]
        start = end


@lru_cache(maxsize=1024)  # many sets of selectors earn the same SVID
def _is_issued_by_any(certificate_der: bytes, authorities: tuple[bytes, ...]) -> bool:
    certificate = x509.load_der_x509_certificate(certificate_der)
    return any(_is_issued_by(certificate, x509.load_der_x509_certificate(der)) for der in authorities)


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _encode(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]
