"""Laws of the texts of a transparency log: each is refused, or is exactly what its value is written as."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopseal.custody.merkle import hash_leaf
from hopseal.errors import HopsealError
from hopseal.log.checkpoint import Checkpoint, parse_checkpoint, parse_signed_checkpoint
from hopseal.log.cosignature import cosign, verify_cosignature
from hopseal.log.note import Note, Signature, is_key_name, parse_note, parse_signatures, parse_vkey
from hopseal.log.policy import parse_policy, policy_of
from hopseal.log.proof import Proof, parse_proof, verify_proof
from hopseal.log.refusals import TransparencyError
from hopseal.log.witness import AddCheckpoint, Head, WitnessRefusalError, decide, parse_add_checkpoint
from tlog_parts import LOG_KEY, NOW, ORIGIN, W1, W2, W3, MemoryLog, cosigned

TREE = MemoryLog.of(9)
NOTE = cosigned(TREE.note(), TREE.checkpoint(), [(W1, NOW - 2), (W3, NOW - 1)])
POLICY = policy_of([LOG_KEY.key], [[W1.key], [W3.key]], 2)
PROOF = Proof(4, TREE.proof(4, NOTE).path, NOTE, b"extra").encode()
REQUEST = AddCheckpoint(5, TREE.consistency(5), NOTE).encode()

LINE_CHARACTERS = st.characters(min_codepoint=0x20, exclude_categories=["Cs"])
LINES = st.text(LINE_CHARACTERS, min_size=1, max_size=40)
NAMES = st.text(LINE_CHARACTERS, min_size=1, max_size=20).filter(is_key_name)
SIGNATURES = st.builds(Signature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80))
HASHES = st.binary(min_size=32, max_size=32)
SIZES = st.integers(0, 2**63 - 1)
CHECKPOINTS = st.builds(Checkpoint, LINES, SIZES, HASHES, st.lists(LINES, max_size=3).map(tuple))
NOTES = st.builds(
    Note,
    st.lists(st.text(LINE_CHARACTERS, max_size=20), max_size=5).map(lambda lines: "\n".join(lines) + "\n"),
    st.lists(SIGNATURES, min_size=1, max_size=4, unique=True).map(tuple),
)

TEXTS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "note": (NOTE, lambda data: parse_note(data).encode()),
    "checkpoint": (NOTE, lambda data: parse_signed_checkpoint(data).note.encode()),
    "proof": (PROOF, lambda data: parse_proof(data).encode()),
    "request": (REQUEST, lambda data: parse_add_checkpoint(data).encode()),
    "vkey": (str(W1.key).encode(), lambda data: str(parse_vkey(data.decode())).encode()),
    "signatures": (
        NOTE.partition(b"\n\n")[2],
        lambda data: "".join(map(str, parse_signatures(data.decode()))).encode(),
    ),
}


@pytest.mark.parametrize("name", TEXTS)
@given(data=st.data())
def test_a_text_changed_anywhere_is_refused_or_read_as_exactly_that(name: str, data: st.DataObject) -> None:
    original, rewrite = TEXTS[name]
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, min(len(original), start + 8)))
    put = data.draw(st.binary(max_size=6) | st.sampled_from([b"\n", b" ", b"\r", b"+", b"=", b"0", b"\n\n", b"\xe2"]))
    changed = original[:start] + put + original[end:]
    try:
        assert rewrite(changed) == changed
    except (HopsealError, UnicodeDecodeError):
        assert changed != original


@pytest.mark.parametrize("name", TEXTS)
@given(data=st.binary(max_size=200))
def test_anything_is_refused_with_an_error_of_ours_or_read_as_exactly_that(name: str, data: bytes) -> None:
    _, rewrite = TEXTS[name]
    with contextlib.suppress(HopsealError, UnicodeDecodeError):
        assert rewrite(data) == data


@given(data=st.binary(max_size=300) | st.text(st.sampled_from("log witnesquorum an\t\n#+1"), max_size=200))
def test_a_policy_is_refused_with_an_error_of_ours_or_means_what_it_is_written_as(data: bytes | str) -> None:
    try:
        found = parse_policy(data.encode() if isinstance(data, str) else data)
    except TransparencyError:
        return
    assert parse_policy(found.encode()) == found


@given(note=NOTES)
def test_every_note_is_read_as_it_was_written(note: Note) -> None:
    assert parse_note(note.encode()) == note


@given(checkpoint=CHECKPOINTS)
def test_every_checkpoint_is_read_as_it_was_written(checkpoint: Checkpoint) -> None:
    assert parse_checkpoint(checkpoint.text) == checkpoint


@given(checkpoint=CHECKPOINTS, time=SIZES, flip=st.integers(0, 7), data=st.data())
def test_no_bit_of_a_cosignature_may_change(checkpoint: Checkpoint, time: int, flip: int, data: st.DataObject) -> None:
    for witness in (W1, W2):
        signature = cosign(checkpoint, witness, time)
        assert verify_cosignature(witness.key, signature, checkpoint).time == time
        at = data.draw(st.integers(0, len(signature.value) - 1))
        value = bytearray(signature.value)
        value[at] ^= 1 << flip
        with pytest.raises(TransparencyError):
            verify_cosignature(witness.key, replace(signature, value=bytes(value)), checkpoint)


@given(data=st.data())
def test_a_proof_changed_anywhere_proves_the_same_or_nothing(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PROOF) - 1))
    changed = PROOF[:at] + bytes([PROOF[at] ^ (1 << data.draw(st.integers(0, 7)))]) + PROOF[at + 1 :]
    try:
        found = verify_proof(parse_proof(changed), hash_leaf(TREE.leaves[4]), POLICY, NOW)
    except HopsealError:
        return
    assert (found.checkpoint, found.time) == (TREE.checkpoint(), NOW - 1)


@given(seed=st.integers(0, 2**32))
def test_of_many_forks_a_witness_accepts_one_history_that_only_grows(seed: int) -> None:
    source = random.Random(seed)
    trees = [MemoryLog.of(12, fork_at=source.randrange(12)) for _ in range(3)]
    heads: dict[str, Head] = {}
    cosigned_roots: dict[int, bytes] = {}
    for _ in range(40):
        tree = source.choice(trees)
        new = source.randrange(13)
        old = heads[ORIGIN].size if ORIGIN in heads and source.random() < 0.8 else source.randrange(13)
        proof = tree.consistency(old, new) if old <= new else ()
        before = heads.get(ORIGIN)
        try:
            accepted = decide(AddCheckpoint(old, proof, tree.note(new)), {ORIGIN: (LOG_KEY.key,)}, heads)
        except WitnessRefusalError:
            continue
        assert before is None or accepted.after.size >= before.size
        assert cosigned_roots.setdefault(accepted.after.size, accepted.after.root) == accepted.after.root
        heads[ORIGIN] = accepted.after
    roots = sorted(cosigned_roots.items())
    assert any(all(tree.checkpoint(size).root == root for size, root in roots) for tree in trees)
