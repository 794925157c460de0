"""Signed notes and the keys that verify them.

Owns: the text of a note, of its signature lines and of verifier keys; plain Ed25519 signatures.
Does not own: what a note says (``checkpoint``); timestamped signatures (``cosignature``).
Whatever is not exactly the format is refused, so that two readers cannot disagree about a note. Signatures by unknown
keys are no mistake: they are kept and ignored.
Source: c2sp.org/signed-note.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from hopseal.custody.encoding import decode_base64, sha256
from hopseal.custody.errors import CustodyError
from hopseal.log.refusals import Reason, TransparencyError

MAX_NOTE_BYTES: Final = 131_072  # sixteen post-quantum signatures of 5 kB fit; signed-note, "Format"
MAX_SIGNATURES: Final = 32  # signed-note: at least 16
MAX_VKEY_CHARACTERS: Final = 4_096
MAX_NAME_BYTES: Final = 255  # opaque cosigner_name<1..2^8-1>; tlog-cosignature

ED25519: Final = 0x01
COSIGNATURE_ED25519: Final = 0x04
COSIGNATURE_ML_DSA_44: Final = 0x06

_KEY_BYTES = {ED25519: 32, COSIGNATURE_ED25519: 32, COSIGNATURE_ML_DSA_44: 1_312}
_KEY_ID_BYTES = 4
_MIN_SIGNATURE_BYTES = _KEY_ID_BYTES + 1
_DASH = "— "
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f]")  # below U+0020, without the newline
_HEX_ID = re.compile(r"[0-9a-f]{8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name and the algorithm that it is used under; its text is the vkey.

    Args:
        name: key name.
        algorithm: signature type byte, one that is known here.
        material: the public key, of the length that its algorithm has.
    """

    name: str
    algorithm: int
    material: bytes

    @property
    def key_id(self) -> bytes:
        """The first four bytes of the hash over name, type and key."""
        return sha256(self.name.encode() + b"\n" + bytes([self.algorithm]) + self.material)[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(bytes([self.algorithm]) + self.material)}"

    def made(self, signature: Signature) -> bool:
        """Whether the signature says that it is by this key; says nothing about whether it holds."""
        return (signature.name, signature.key_id) == (self.name, self.key_id)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line, not verified.

    Args:
        name: key name.
        key_id: 4 bytes.
        value: what follows the key id.
    """

    name: str
    key_id: bytes
    value: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {encode_base64(self.key_id + self.value)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note as it was read: its signatures are not verified.

    Args:
        text: ends in a newline.
        signatures: at least one, each once.
    """

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The signed note as bytes."""
        return f"{self.text}\n{''.join(map(str, self.signatures))}".encode()

    def signed_by(self, key: VerifierKey) -> tuple[Signature, ...]:
        """The signatures that say they are by ``key``."""
        return tuple(signature for signature in self.signatures if key.made(signature))


class Signer(Protocol):
    """A private key behind its verifier key."""

    @property
    def key(self) -> VerifierKey:
        """What verifies the signatures."""

    def sign(self, message: bytes) -> bytes:
        """The raw signature over ``message``."""


def parse_note(data: bytes) -> Note:
    """The note in ``data``, its signatures not verified.

    Raises:
        TransparencyError: [note_malformed] it is not exactly the format, or too large.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise _malformed(f"longer than {MAX_NOTE_BYTES} bytes")
    try:
        decoded = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed("not UTF-8") from error
    if _CONTROL.search(decoded):
        raise _malformed("it has a control character")
    # The last empty line divides, so a text may have empty lines of its own.
    text, divider, lines = decoded.rpartition("\n\n")
    if not divider or not lines.endswith("\n"):
        raise _malformed("it has no signatures behind an empty line")
    return Note(text + "\n", parse_signatures(lines))


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """The signatures in one or more whole lines, not verified.

    Raises:
        TransparencyError: [note_malformed] a line is no signature line, or stands there twice, or there are too many.
    """
    if _CONTROL.search(lines) or not lines.endswith("\n"):
        raise _malformed("signature lines end in a newline and have no control characters")
    split = lines[:-1].split("\n")
    if len(split) > MAX_SIGNATURES:
        raise _malformed(f"more than {MAX_SIGNATURES} signatures")
    signatures = tuple(map(_parse_signature, split))
    if len(set(signatures)) != len(signatures):
        raise _malformed("a signature stands there twice")
    return signatures


def parse_vkey(text: str) -> VerifierKey:
    """The verifier key in ``text``.

    Raises:
        TransparencyError: [vkey_invalid] it is none, its id is not that of its key, or its type is not known here.
    """
    if len(text) > MAX_VKEY_CHARACTERS:
        raise _no_vkey("too long")
    # Base64 may hold a plus; a name may not.
    parts = text.split("+", 2)
    if len(parts) != 3 or not is_key_name(parts[0]) or _HEX_ID.fullmatch(parts[1]) is None:
        raise _no_vkey("it is not name+id+base64")
    try:
        encoded = decode_base64(parts[2])
    except CustodyError as error:
        raise _no_vkey(error.detail) from error
    algorithm, material = encoded[:1], encoded[1:]
    if not algorithm or _KEY_BYTES.get(algorithm[0]) != len(material):
        raise _no_vkey("its signature type is not known here, or its key has another length")
    key = VerifierKey(parts[0], algorithm[0], material)
    if key.key_id.hex() != parts[1]:
        raise _no_vkey("the id is not that of the key")
    _load(key)
    return key


def encode_base64(data: bytes) -> str:
    """``data`` in padded base64 of the standard alphabet, which every text of a log uses."""
    return base64.b64encode(data).decode("ascii")


def is_key_name(name: str) -> bool:
    """Whether signature lines can carry the name, and every kind of signature can commit to it."""
    return (
        0 < len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES
        and "+" not in name
        and _CONTROL.search(name) is None
        and not any(map(str.isspace, name))
        and not any("\ud800" <= character <= "\udfff" for character in name)
    )


def sign_note(text: str, signer: Signer) -> Signature:
    """The plain signature of ``signer``, an Ed25519 key of type 0x01, over ``text``."""
    return Signature(signer.key.name, signer.key.key_id, signer.sign(text.encode()))


def verify_raw(key: VerifierKey, value: bytes, message: bytes) -> None:
    """Check the raw signature ``value`` over ``message``, whatever the algorithm.

    Raises:
        TransparencyError: [note_signature] it does not hold.
    """
    try:
        _load(key).verify(value, message)
    except InvalidSignature as error:
        raise TransparencyError(Reason.SIGNATURE, f"by {key.name}") from error


def _parse_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space or not is_key_name(name):
        raise _malformed("a line is no signature line")
    try:
        decoded = decode_base64(encoded)
    except CustodyError as error:
        raise _malformed(f"a signature is wrong: {error.detail}") from error
    if len(decoded) < _MIN_SIGNATURE_BYTES:
        raise _malformed("a signature is too short")
    return Signature(name, decoded[:_KEY_ID_BYTES], decoded[_KEY_ID_BYTES:])


def _load(key: VerifierKey) -> Ed25519PublicKey | MLDSA44PublicKey:
    try:
        if key.algorithm == COSIGNATURE_ML_DSA_44:
            return MLDSA44PublicKey.from_public_bytes(key.material)
        return Ed25519PublicKey.from_public_bytes(key.material)
    except UnsupportedAlgorithm as error:
        raise _no_vkey("this installation of cryptography has no ML-DSA") from error


def _malformed(detail: str) -> TransparencyError:
    return TransparencyError(Reason.NOTE, detail)


def _no_vkey(detail: str) -> TransparencyError:
    return TransparencyError(Reason.VKEY, detail)
