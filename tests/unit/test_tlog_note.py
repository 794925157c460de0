"""Signed notes and verifier keys: what the specification shows, and every way to write one wrong."""

from __future__ import annotations

import base64

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from hopseal.log import note as note_module
from hopseal.log.note import (
    COSIGNATURE_ML_DSA_44,
    ED25519,
    MAX_NAME_BYTES,
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    MAX_VKEY_CHARACTERS,
    Note,
    Signature,
    VerifierKey,
    encode_base64,
    is_key_name,
    parse_note,
    parse_signatures,
    parse_vkey,
    sign_note,
    verify_raw,
)
from hopseal.log.refusals import Reason, TransparencyError
from hopseal.log.signers import log_signer
from tlog_parts import LOG_KEY, OTHER_LOG_KEY, W2, ed25519

SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
SPEC_OTHER = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n— quasimodo.example/"
    "salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
).encode()
LINE = str(Signature("name", b"1234", b"5"))


def reason_of(function, *arguments) -> Reason:
    with pytest.raises(TransparencyError) as caught:
        function(*arguments)
    assert caught.value.remedy
    assert caught.value.detail
    return caught.value.reason


def test_the_note_of_the_specification_verifies_under_its_key() -> None:
    note, key = parse_note(SPEC_NOTE), parse_vkey(SPEC_VKEY)
    (signature,) = note.signed_by(key)
    verify_raw(key, signature.value, note.text.encode())
    assert (str(key), note.encode(), note.text) == (SPEC_VKEY, SPEC_NOTE, "This is an example message.\n")


def test_the_last_empty_line_divides_text_and_signatures() -> None:
    note = parse_note(SPEC_OTHER)
    assert note.text.endswith(":\n\ned è subito sera.\n")
    assert [each.name for each in note.signatures] == ["quasimodo.example/salvatore"]
    assert note.encode() == SPEC_OTHER


def test_one_changed_letter_and_the_signature_does_not_hold() -> None:
    key = parse_vkey(SPEC_VKEY)
    note = parse_note(SPEC_NOTE.replace(b"This", b"That"))
    assert reason_of(verify_raw, key, note.signatures[0].value, note.text.encode()) is Reason.SIGNATURE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        f"text\n{LINE}".encode(),
        f"text{LINE}".encode(),
        f"text\n\n{LINE}"[:-1].encode(),
        f"text\n\n{LINE}\n".encode(),
        f"text\n\n{LINE}rest".encode(),
        f"text\n\n{LINE}".encode().replace("—".encode(), b"\xe2\x80"),
        f"text\n\n{LINE}".encode().replace("—".encode(), "–".encode()),
        f"text\n\n{LINE}".encode().replace("—".encode(), b"-"),
        f"text\n\n{LINE}{LINE}".encode(),
        f"te\txt\n\n{LINE}".encode(),
        f"te\rxt\n\n{LINE}".encode(),
        f"te\0xt\n\n{LINE}".encode(),
        f"te\x1fxt\n\n{LINE}".encode(),
        f"text\n\n{LINE}".replace("\n", "\r\n").encode(),
        b"te\xc0\x80xt\n\n" + LINE.encode(),
        b"te\xed\xa0\x80xt\n\n" + LINE.encode(),
    ],
)
def test_what_is_not_exactly_a_note_is_refused(data: bytes) -> None:
    assert reason_of(parse_note, data) is Reason.NOTE


@pytest.mark.parametrize(
    "line",
    [
        "",
        "— name\n",
        "— name \n",
        "—name MTIzNDU=\n",
        "—  MTIzNDU=\n",
        "—  name MTIzNDU=\n",
        "— name MTIzNDU=",
        " — name MTIzNDU=\n",
        "— na+me MTIzNDU=\n",
        "— na\u00a0me MTIzNDU=\n",
        "— na\u2028me MTIzNDU=\n",
        "— na\u3000me MTIzNDU=\n",
        "— name MTIzNDU= \n",
        "— name  MTIzNDU=\n",
        "— name MTIz\n",
        "— name MTIzNA==\n",
        "— name MTIzNDU\n",
        "— name MTIzNDV=\n",
        "— name MTIzNDU==\n",
        "— name MTIz-_U=\n",
        "— name MTIz NDU=\n",
        "— name ١٢٣٤\n",
        "— name MTIzNDU=\n\n",
        "— name MTIzNDU=\r\n",
    ],
)
def test_what_is_not_exactly_signature_lines_is_refused(line: str) -> None:
    assert reason_of(parse_signatures, line) is Reason.NOTE


def test_a_signature_line_is_read_as_it_was_written() -> None:
    assert parse_signatures("— name MTIzNDU=\n") == (Signature("name", b"1234", b"5"),)
    assert str(Signature("name", b"1234", b"5")) == "— name MTIzNDU=\n"


def test_as_many_signatures_as_allowed_and_no_more() -> None:
    lines = [str(Signature(f"name{n}", b"1234", b"5")) for n in range(MAX_SIGNATURES + 1)]
    assert len(parse_signatures("".join(lines[1:]))) == MAX_SIGNATURES
    assert reason_of(parse_signatures, "".join(lines)) is Reason.NOTE


def test_one_name_may_sign_with_several_keys() -> None:
    lines = "".join(str(Signature("name", bytes([n] * 4), b"5")) for n in range(3))
    assert len(parse_signatures(lines)) == 3


def test_a_note_as_large_as_allowed_and_no_larger() -> None:
    tail = f"\n\n{LINE}".encode()
    largest = b"x" * (MAX_NOTE_BYTES - len(tail)) + tail
    assert len(parse_note(largest).text) == MAX_NOTE_BYTES - len(tail) + 1
    assert reason_of(parse_note, b"x" + largest) is Reason.NOTE


def test_signatures_by_unknown_keys_are_kept_and_ignored() -> None:
    note = Note("text\n", (sign_note("text\n", OTHER_LOG_KEY), sign_note("text\n", LOG_KEY)))
    assert [each.name for each in parse_note(note.encode()).signed_by(LOG_KEY.key)] == [LOG_KEY.key.name]


def test_a_signature_that_shares_only_name_or_only_id_is_not_by_the_key() -> None:
    key = LOG_KEY.key
    assert not key.made(Signature(key.name, b"0000", b"x"))
    assert not key.made(Signature("other", key.key_id, b"x"))
    assert key.made(Signature(key.name, key.key_id, b"x"))


@pytest.mark.parametrize("name", ["a", "example.com/foo", "é/ü", "x" * MAX_NAME_BYTES, "—", "\u200b"])
def test_key_names_that_lines_can_carry(name: str) -> None:
    assert is_key_name(name)


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a+b", "a\n", "a\t", "\0", "\u0085", "\u00a0", "\u1680", "\u2007", "\ud800", "x" * 256, "é" * 128],
)
def test_key_names_that_lines_cannot_carry(name: str) -> None:
    assert not is_key_name(name)
    with pytest.raises(TransparencyError):
        log_signer(name, ed25519(1))


def vkey_of(name: str, key_id: str, encoded: bytes) -> str:
    return f"{name}+{key_id}+{encode_base64(encoded)}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "++",
        "example.com/foo",
        "example.com/foo+530d903a",
        SPEC_VKEY + "\n",
        " " + SPEC_VKEY,
        SPEC_VKEY + "+",
        SPEC_VKEY[:-1],
        SPEC_VKEY.replace("530d903a", "530D903A"),
        SPEC_VKEY.replace("530d903a", "530d903b"),
        SPEC_VKEY.replace("530d903a", "0530d903a"),
        SPEC_VKEY.replace("530d903a", "+30d903a"),
        SPEC_VKEY.replace("foo", "fop"),
        SPEC_VKEY.replace("foo", "f o"),
        SPEC_VKEY.replace("+Ae", "+Be"),
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        vkey_of("a", "00000000", b""),
        vkey_of("a", "00000000", b"\x01"),
        vkey_of("a", "00000000", b"\x01" + bytes(31)),
        vkey_of("a", "00000000", b"\x02" + bytes(32)),
        vkey_of("a", "00000000", b"\x06" + bytes(32)),
        vkey_of("a", "00000000", b"\xff" + bytes(32)),
        "a+00000000+" + "A" * MAX_VKEY_CHARACTERS,
    ],
)
def test_what_is_not_exactly_a_verifier_key_is_refused(text: str) -> None:
    assert reason_of(parse_vkey, text) is Reason.VKEY


def test_a_post_quantum_key_is_read_as_it_was_written() -> None:
    assert parse_vkey(str(W2.key)) == W2.key
    assert W2.key.algorithm == COSIGNATURE_ML_DSA_44
    assert len(base64.b64decode(str(W2.key).split("+", 2)[2])) == 1_313


def test_without_ml_dsa_in_this_installation_such_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        @staticmethod
        def from_public_bytes(_: bytes) -> object:
            raise UnsupportedAlgorithm("no ML-DSA")

    monkeypatch.setattr(note_module, "MLDSA44PublicKey", Absent)
    assert reason_of(parse_vkey, str(W2.key)) is Reason.VKEY


def test_one_public_key_under_two_types_has_two_ids() -> None:
    material = LOG_KEY.key.material
    assert VerifierKey("a", ED25519, material).key_id != VerifierKey("a", 0x04, material).key_id
