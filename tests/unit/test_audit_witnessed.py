"""Proofs whose paths were climbed before: never a proof that would not have held alone, and each that would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopseal.errors import HopsealError
from hopseal.log.audit.witnessed import Witnesses
from hopseal.log.policy import policy_of
from hopseal.log.proof import Proof
from tlog_parts import LOG_KEY, NOW, W1, W3, MemoryLog, cosigned

POLICY = policy_of([LOG_KEY.key], [[W1.key]], 1)
SIZES = (1, 2, 3, 7, 8, 11, 64, 100)


def notes_of(tree: MemoryLog) -> bytes:
    return cosigned(tree.note(), tree.checkpoint(), [(W1, NOW - 20)])


TREES = {size: MemoryLog.of(size) for size in SIZES}
NOTES = {size: notes_of(tree) for size, tree in TREES.items()}
PROOFS = {size: [tree.proof(n, NOTES[size]).encode().decode() for n in range(size)] for size, tree in TREES.items()}


def warm(size: int) -> Witnesses:
    """Everything that holds was seen."""
    witnesses = Witnesses(POLICY, NOW)
    for leaf, text in zip(TREES[size].leaves, PROOFS[size], strict=True):
        witnesses.verify(text, leaf)
    return witnesses


def outcome(witnesses: Witnesses, text: str, leaf: bytes) -> object:
    try:
        return witnesses.verify(text, leaf)
    except HopsealError as error:
        return error.code, error.detail


def changed(size: int) -> Iterator[tuple[str, bytes]]:
    """Proofs that are wrong in one place, each with a leaf."""
    tree, note = TREES[size], NOTES[size]
    for n in range(0, size, max(1, size // 5)):
        text, leaf, path = PROOFS[size][n], tree.leaves[n], tree.proof(n, note).path
        yield text, b"another leaf"
        yield text.replace(f"index {n}\n", f"index {n + 1}\n"), leaf
        yield text.replace(f"index {n}\n", f"index 0{n}\n"), leaf
        yield text.replace(f"index {n}\n", f"extra b3BhcXVl\nindex {n}\n"), leaf  # as good as without
        yield text.replace(f"index {n}\n", f"index {size}\n"), leaf
        yield text.replace("=\n", "\n", 1), leaf
        yield text.replace("\n\n", "\n \n", 1), leaf
        yield text.replace("— witness", "— Witness"), leaf
        yield text.removesuffix("\n"), leaf
        yield text.replace("\n\n", "\n", 1), leaf
        for at in range(len(path)):
            for other in (b"\x00" * 32, path[at][:31] + bytes([path[at][31] ^ 1]), path[at - 1]):
                yield Proof(n, (*path[:at], other, *path[at + 1 :]), note).encode().decode(), leaf
            yield Proof(n, path[:at] + path[at + 1 :], note).encode().decode(), leaf
            yield Proof(n, path[:at], note).encode().decode(), leaf
            yield Proof(n, (*path[:at], path[at], *path[at:]), note).encode().decode(), leaf
        yield Proof(n, (*path, b"\x00" * 32), note).encode().decode(), leaf


@pytest.mark.parametrize("size", SIZES)
def test_what_was_seen_before_changes_no_verdict(size: int) -> None:
    witnesses = warm(size)
    for text, leaf in changed(size):
        assert outcome(witnesses, text, leaf) == outcome(Witnesses(POLICY, NOW), text, leaf)


@pytest.mark.parametrize("size", SIZES)
def test_every_entry_is_found_where_it_is(size: int) -> None:
    witnesses, tree = warm(size), TREES[size]
    for n, (leaf, text) in enumerate(zip(tree.leaves, PROOFS[size], strict=True)):
        found = witnesses.verify(text, leaf)
        assert found == Witnesses(POLICY, NOW).verify(text, leaf)
        assert (found.at, found.origin, found.index, found.size) == (NOW - 20, LOG_KEY.key.name, n, size)
        assert found.root == tree.checkpoint().root


@given(data=st.data(), size=st.sampled_from([7, 11, 64]))
def test_no_mutation_of_a_proof_is_judged_by_what_was_seen(data: st.DataObject, size: int) -> None:
    n = data.draw(st.integers(0, size - 1))
    text = PROOFS[size][n]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 90)))
    put = data.draw(st.one_of(st.text(max_size=3), st.sampled_from([text[i : i + 45] for i in range(35, 180, 45)])))
    mutated, leaf = text[:start] + put + text[end:], TREES[size].leaves[n]
    assert outcome(warm(size), mutated, leaf) == outcome(Witnesses(POLICY, NOW), mutated, leaf)


def test_a_checkpoint_by_another_witness_is_none_that_was_seen() -> None:
    tree = TREES[7]
    note = cosigned(tree.note(), tree.checkpoint(), [(W3, NOW - 20)])
    code, _ = outcome(warm(7), tree.proof(3, note).encode().decode(), tree.leaves[3])  # type: ignore[misc]
    assert code == "quorum_missed"
