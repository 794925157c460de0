"""Sealed statements: three-part text of payload, inclusion path and seal, parsed and made.

Owns: the text form, statement hashes, the seal's exact header and body, making and checking the signature.
Does not own: what the payload says (``record``), whose key it is (``hopseal.verify``).
Source: custody-wire §4.1 and §4.2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from hopseal.custody.encoding import decode_b64url, encode_b64url, sha256
from hopseal.custody.errors import Code, malformed, refusal
from hopseal.custody.merkle import build_tree, compute_root, hash_leaf
from hopseal.errors import BugError
from hopseal.limits import MAX_STATEMENTS_ACCEPTED, MAX_STATEMENTS_SEALED

_HEADER = re.compile(rb'\{"alg":"ES256","typ":"custody-seal\+jwt","x5t#S256":"([A-Za-z0-9_-]{43})"\}')
_BODY = re.compile(rb'\{"v":1,"n":([1-9][0-9]{0,2}),"root":"([A-Za-z0-9_-]{43})"\}')
_HASH_BYTES = 32
_SCALAR_BYTES = 32  # P-256
_PARTS = 5


@dataclass(frozen=True, slots=True)
class Seal:
    """A parsed seal; its signature is not checked.

    Args:
        text: the compact JWS, three parts.
        x5t: SHA-256 of the signer's leaf certificate, base64url.
        n: statements under this seal.
        root: tree root over their hashes, 32 bytes.
        signature: r and s, 32 bytes each.
    """

    text: str
    x5t: str
    n: int
    root: bytes
    signature: bytes

    @property
    def key(self) -> bytes:
        """SHA-256 of the text: what a cache of verified seals is keyed by."""
        return sha256(self.text.encode("ascii"))


@dataclass(frozen=True, slots=True)
class SealedStatement:
    """A parsed sealed statement; nothing about it is verified.

    Args:
        text: the whole sealed text.
        payload: its first part, base64url.
        claims: the bytes that ``payload`` encodes.
        index: which leaf of the tree it is.
        path: sibling hashes from leaf to root.
        seal: the seal over that tree.
        hash: the statement hash, base64url.
        root: where the path leads from the hash; only ``verify_inclusion`` says whether it is the seal's.
    """

    text: str
    payload: str
    claims: bytes
    index: int
    path: tuple[bytes, ...]
    seal: Seal
    hash: str
    root: bytes


@dataclass(frozen=True, slots=True)
class Signer:
    """An SVID's key and leaf, to seal with.

    Args:
        leaf_der: the leaf certificate.
        key: its P-256 private key; not shown in ``repr``.
        deterministic: take nonces from RFC 6979 instead of randomness, so that equal input gives equal text.
    """

    leaf_der: bytes
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    deterministic: bool = False


def thumbprint(der: bytes) -> str:
    """``x5t#S256`` of a certificate. Source: RFC 7515 §4.1.8."""
    return encode_b64url(sha256(der))


def hash_statement(x5t: str, payload: str) -> bytes:
    """The statement hash: a leaf hash over certificate and payload, so that neither can be exchanged."""
    return hash_leaf(_decode_thumbprint(x5t) + payload.encode("ascii"))


@lru_cache(maxsize=256)
def _decode_thumbprint(x5t: str) -> bytes:
    return decode_b64url(x5t)


def parse_sealed(text: str) -> SealedStatement:
    """The parts of a sealed statement.

    Raises:
        CustodyError: [malformed] if any part departs from §4.1 or §4.2, the path's length included.
    """
    parts = text.split(".")
    if len(parts) != _PARTS:
        raise malformed("a sealed statement has five parts")
    payload, path_text, header, body, signature = parts
    claims = decode_b64url(payload)
    if not claims:
        raise malformed("the payload is empty")
    seal = parse_seal(header, body, signature)
    index, path = _parse_path(decode_b64url(path_text), seal.n)
    statement_hash = hash_statement(seal.x5t, payload)
    root = compute_root(statement_hash, index, seal.n, path)
    return SealedStatement(text, payload, claims, index, path, seal, encode_b64url(statement_hash), root)


@lru_cache(maxsize=256)
def parse_seal(header: str, body: str, signature: str) -> Seal:
    """The seal whose compact JWS has these three parts; remembered, since the statements under a seal come together.

    Raises:
        CustodyError: [malformed] unless header and body are byte for byte of the one form.
    """
    head, claims = _HEADER.fullmatch(decode_b64url(header)), _BODY.fullmatch(decode_b64url(body))
    if head is None or claims is None:
        raise malformed("the seal's header or body is not of the one form")
    x5t, root = head[1].decode("ascii"), decode_b64url(claims[2].decode("ascii"))
    decode_b64url(x5t)
    n = int(claims[1])
    if n > MAX_STATEMENTS_ACCEPTED:
        raise malformed("the seal covers too many statements")
    scalars = decode_b64url(signature)
    if len(scalars) != 2 * _SCALAR_BYTES:
        raise malformed("the signature has not 64 bytes")
    return Seal(f"{header}.{body}.{signature}", x5t, n, root, scalars)


def verify_inclusion(statement: SealedStatement) -> None:
    """Return if the statement's path leads to the root of its seal.

    Raises:
        CustodyError: [signature].
    """
    if statement.root != statement.seal.root:
        raise refusal(Code.SIGNATURE, "the inclusion path leads to another root")


def verify_signature(seal: Seal, key: object) -> None:
    """Return if ``key`` is a P-256 public key and made the seal's signature.

    Raises:
        CustodyError: [signature].
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise refusal(Code.SIGNATURE, "the certificate's key is not P-256")
    r, s = (int.from_bytes(half) for half in (seal.signature[:_SCALAR_BYTES], seal.signature[_SCALAR_BYTES:]))
    signing_input = seal.text.rpartition(".")[0].encode("ascii")
    try:
        key.verify(utils.encode_dss_signature(r, s), signing_input, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise refusal(Code.SIGNATURE, "the signature is wrong") from error


def seal_statements(payloads: Sequence[bytes], signer: Signer) -> tuple[str, ...]:
    """The sealed text of each of ``payloads`` (claims, 1 to 32) under one new seal of ``signer``."""
    if not 1 <= len(payloads) <= MAX_STATEMENTS_SEALED:
        raise BugError("seal_size", "a seal covers 1 to 32 statements", detail=str(len(payloads)))
    encoded = [encode_b64url(payload) for payload in payloads]
    x5t = thumbprint(signer.leaf_der)
    root, paths = build_tree([hash_statement(x5t, payload) for payload in encoded])
    seal = _sign(x5t, len(encoded), root, signer)
    return tuple(
        f"{payload}.{format_path(index, path)}.{seal}"
        for index, (payload, path) in enumerate(zip(encoded, paths, strict=True))
    )


def format_path(index: int, path: Sequence[bytes]) -> str:
    """The text of an inclusion path; empty for the only statement of a seal."""
    return encode_b64url(bytes([index]) + b"".join(path)) if path else ""


def _sign(x5t: str, n: int, root: bytes, signer: Signer) -> str:
    header = f'{{"alg":"ES256","typ":"custody-seal+jwt","x5t#S256":"{x5t}"}}'
    body = f'{{"v":1,"n":{n},"root":"{encode_b64url(root)}"}}'
    signing_input = f"{encode_b64url(header.encode())}.{encode_b64url(body.encode())}"
    algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=signer.deterministic)
    r, s = utils.decode_dss_signature(signer.key.sign(signing_input.encode("ascii"), algorithm))
    signature = r.to_bytes(_SCALAR_BYTES) + s.to_bytes(_SCALAR_BYTES)
    return f"{signing_input}.{encode_b64url(signature)}"


def _parse_path(data: bytes, n: int) -> tuple[int, tuple[bytes, ...]]:
    if n == 1:
        if data:
            raise malformed("a statement sealed alone has no path")
        return 0, ()
    if len(data) % _HASH_BYTES != 1:
        raise malformed("an inclusion path is an index and hashes")
    return data[0], tuple(data[start : start + _HASH_BYTES] for start in range(1, len(data), _HASH_BYTES))
