"""Checkpoints, the signatures of their logs, and cosignatures."""

from __future__ import annotations

import struct

import pytest

from hopseal.log.checkpoint import (
    MAX_EXTENSIONS,
    MAX_ORIGIN_BYTES,
    Checkpoint,
    parse_checkpoint,
    parse_hash,
    parse_number,
    parse_signed_checkpoint,
)
from hopseal.log.cosignature import MAX_TIME, cosign, cosigned_message, verify_cosignature
from hopseal.log.log_key import sign_checkpoint, verify_log_signature
from hopseal.log.note import COSIGNATURE_ML_DSA_44, ED25519, Note, Signature, parse_note, parse_signatures
from hopseal.log.refusals import Reason, TransparencyError
from hopseal.log.signers import KeySigner, log_signer
from hopseal.log.tree import EMPTY_ROOT, MAX_TREE_SIZE
from tlog_parts import LOG_KEY, NOW, ORIGIN, OTHER_LOG_KEY, W1, W2, MemoryLog, cosigned, ed25519, ml_dsa

SPEC_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)
HASH = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
TREE = MemoryLog.of(5)


def reason_of(function, *arguments) -> Reason:
    with pytest.raises(TransparencyError) as caught:
        function(*arguments)
    return caught.value.reason


def test_the_checkpoint_of_the_specification_is_read_as_it_was_written() -> None:
    found = parse_signed_checkpoint(SPEC_CHECKPOINT.encode())
    assert (found.checkpoint.origin, found.checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert found.checkpoint.text == found.note.text
    assert found.note.encode() == SPEC_CHECKPOINT.encode()


def test_the_cosigned_message_of_the_specification() -> None:
    checkpoint = parse_signed_checkpoint(SPEC_CHECKPOINT.encode()).checkpoint
    expected = f"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n{HASH}\n"
    assert cosigned_message(W1.key, checkpoint, 1_679_315_147) == expected.encode()


def test_the_post_quantum_message_holds_every_field_of_the_specification() -> None:
    checkpoint = TREE.checkpoint()
    name, origin = W2.key.name.encode(), ORIGIN.encode()
    expected = (
        b"subtree/v1\n\0"
        + struct.pack(f">B{len(name)}sQ", len(name), name, NOW)
        + struct.pack(f">B{len(origin)}sQQ", len(origin), origin, 0, 5)
        + checkpoint.root
    )
    assert cosigned_message(W2.key, checkpoint, NOW) == expected


def test_extension_lines_are_part_of_the_plain_signature() -> None:
    checkpoint = Checkpoint(ORIGIN, 5, TREE.checkpoint().root, ("first", "second"))
    found = parse_signed_checkpoint(sign_checkpoint(checkpoint, LOG_KEY))
    assert verify_log_signature(found, [LOG_KEY.key]).checkpoint == checkpoint
    altered = Note(found.note.text.replace("second", "third"), found.note.signatures).encode()
    assert reason_of(verify_log_signature, parse_signed_checkpoint(altered), [LOG_KEY.key]) is Reason.SIGNATURE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "o\n1\n",
        f"o\n1\n{HASH}",
        f"\n1\n{HASH}\n",
        f"o\n\n{HASH}\n",
        "o\n1\n\n",
        f"o\n1\n{HASH}\n\n",
        f"o\n1\n{HASH}\n\next\n",
        f"o\n01\n{HASH}\n",
        f"o\n+1\n{HASH}\n",
        f"o\n-1\n{HASH}\n",
        f"o\n 1\n{HASH}\n",
        f"o\n1 \n{HASH}\n",
        f"o\n1_0\n{HASH}\n",
        f"o\n1.0\n{HASH}\n",
        f"o\n0x1\n{HASH}\n",
        f"o\n١\n{HASH}\n",
        f"o\n{2**63}\n{HASH}\n",
        f"o\n{10**40}\n{HASH}\n",
        f"o\n1\n{HASH[:-1]}\n",
        f"o\n1\n{HASH} \n",
        "o\n1\nAAAA\n",
        f"o\n1\nAAAA{HASH}\n",
        f"o\n1\n{HASH.replace('I=', 'J=')}\n",
        f"o\n1\n{HASH.replace('/', '_')}\n",
        "o" * (MAX_ORIGIN_BYTES + 1) + f"\n1\n{HASH}\n",
        f"o\n1\n{HASH}\n" + "e\n" * (MAX_EXTENSIONS + 1),
    ],
)
def test_what_is_not_exactly_a_checkpoint_is_refused(text: str) -> None:
    assert reason_of(parse_checkpoint, text) is Reason.CHECKPOINT


@pytest.mark.parametrize(
    "text",
    [
        f"o\n0\n{HASH}\n",
        f"o\n{MAX_TREE_SIZE}\n{HASH}\n",
        "o" * MAX_ORIGIN_BYTES + f"\n1\n{HASH}\n",
        f"o\n1\n{HASH}\n" + "e\n" * MAX_EXTENSIONS,
        f"go.sum database tree\n1\n{HASH}\n",
    ],
)
def test_checkpoints_at_the_bounds_are_read_as_they_were_written(text: str) -> None:
    assert parse_checkpoint(text).text == text


def test_numbers_and_hashes_alone() -> None:
    assert parse_number("0") == 0
    assert parse_hash(HASH)[:2] == b"\x0a\xc5"
    with pytest.raises(ValueError, match="number"):
        parse_number("1\n")
    with pytest.raises(ValueError, match="hash"):
        parse_hash(HASH + "\n")


def test_an_empty_log_has_a_checkpoint() -> None:
    assert MemoryLog().checkpoint().root == EMPTY_ROOT


def test_a_log_may_sign_with_a_post_quantum_key() -> None:
    key = KeySigner(
        type(LOG_KEY.key)(ORIGIN, COSIGNATURE_ML_DSA_44, ml_dsa(3).public_key().public_bytes_raw()), ml_dsa(3)
    )
    found = parse_signed_checkpoint(sign_checkpoint(TREE.checkpoint(), key, NOW))
    assert verify_log_signature(found, [LOG_KEY.key, key.key]).signatures == found.note.signatures
    extended = Checkpoint(ORIGIN, 5, TREE.checkpoint().root, ("not signed",))
    found = parse_signed_checkpoint(sign_checkpoint(extended, key, NOW))
    assert reason_of(verify_log_signature, found, [key.key]) is Reason.SIGNATURE


def test_a_checkpoint_signed_by_no_trusted_key_is_refused() -> None:
    found = parse_signed_checkpoint(TREE.note())
    assert reason_of(verify_log_signature, found, []) is Reason.UNSIGNED
    assert reason_of(verify_log_signature, found, [OTHER_LOG_KEY.key]) is Reason.UNSIGNED


def test_one_wrong_signature_of_a_trusted_key_spoils_the_right_one_of_another() -> None:
    other = log_signer(ORIGIN, ed25519(9))
    note = parse_note(TREE.note())
    wrong = Signature(ORIGIN, other.key.key_id, bytes(64))
    found = parse_signed_checkpoint(Note(note.text, (*note.signatures, wrong)).encode())
    assert verify_log_signature(found, [LOG_KEY.key])
    assert reason_of(verify_log_signature, found, [LOG_KEY.key, other.key]) is Reason.SIGNATURE


def test_both_keys_of_a_log_that_changes_its_key_count() -> None:
    new = log_signer(ORIGIN, ed25519(9))
    old, fresh = parse_note(TREE.note()), parse_note(sign_checkpoint(TREE.checkpoint(), new))
    found = parse_signed_checkpoint(Note(old.text, (*old.signatures, *fresh.signatures)).encode())
    for keys in ([LOG_KEY.key], [new.key], [LOG_KEY.key, new.key]):
        assert len(verify_log_signature(found, keys).signatures) == len(keys)


@pytest.mark.parametrize("witness", [W1, W2], ids=["ed25519", "ml-dsa-44"])
@pytest.mark.parametrize("time", [0, 1, NOW, MAX_TIME])
def test_a_cosignature_tells_who_made_it_and_when(witness: KeySigner, time: int) -> None:
    signature = cosign(TREE.checkpoint(), witness, time)
    (read,) = parse_signatures(str(signature))
    found = verify_cosignature(witness.key, read, TREE.checkpoint())
    assert (found.key, found.time, found.signature) == (witness.key, time, signature)


@pytest.mark.parametrize("witness", [W1, W2], ids=["ed25519", "ml-dsa-44"])
def test_a_cosignature_over_anything_else_does_not_hold(witness: KeySigner) -> None:
    checkpoint = TREE.checkpoint()
    signature = cosign(checkpoint, witness, NOW)
    others = [
        Checkpoint("other", checkpoint.size, checkpoint.root),
        Checkpoint(ORIGIN, checkpoint.size + 1, checkpoint.root),
        Checkpoint(ORIGIN, checkpoint.size, bytes(32)),
    ]
    for other in others:
        assert reason_of(verify_cosignature, witness.key, signature, other) is Reason.SIGNATURE
    later = Signature(signature.name, signature.key_id, (NOW + 1).to_bytes(8, "big") + signature.value[8:])
    assert reason_of(verify_cosignature, witness.key, later, checkpoint) is Reason.SIGNATURE


def test_the_post_quantum_cosignature_commits_to_the_name_of_its_maker() -> None:
    signature = cosign(TREE.checkpoint(), W2, NOW)
    renamed = type(W2.key)("somebody else", W2.key.algorithm, W2.key.material)
    moved = Signature(renamed.name, renamed.key_id, signature.value)
    assert reason_of(verify_cosignature, renamed, moved, TREE.checkpoint()) is Reason.SIGNATURE


@pytest.mark.parametrize(
    "value", [b"", bytes(7), bytes(8), bytes(9), bytes(72), (2**63).to_bytes(8, "big") + bytes(64)]
)
def test_a_cosignature_without_a_possible_time_or_signature_does_not_hold(value: bytes) -> None:
    for witness in (W1, W2):
        signature = Signature(witness.key.name, witness.key.key_id, value)
        assert reason_of(verify_cosignature, witness.key, signature, TREE.checkpoint()) is Reason.SIGNATURE


def test_a_plain_signature_is_no_cosignature_although_key_and_text_are_the_same() -> None:
    plain = KeySigner(type(W1.key)(W1.key.name, ED25519, W1.key.material), W1.private)
    note = parse_note(sign_checkpoint(TREE.checkpoint(), plain))
    assert note.signed_by(W1.key) == ()


def test_cosigning_adds_lines_and_leaves_the_rest() -> None:
    note = cosigned(TREE.note(), TREE.checkpoint(), [(W1, NOW), (W2, NOW)])
    found = parse_signed_checkpoint(note)
    assert len(found.note.signatures) == 3
    assert verify_log_signature(found, [LOG_KEY.key]).checkpoint == TREE.checkpoint()
