"""Proofs as text, and what they prove under a policy."""

from __future__ import annotations

import pytest

from hopseal.custody.merkle import hash_leaf
from hopseal.errors import InvalidError
from hopseal.log.note import MAX_NOTE_BYTES
from hopseal.log.policy import policy_of
from hopseal.log.proof import MAX_EXTRA_BYTES, MAX_PATH, MAX_PROOF_BYTES, Proof, parse_proof, verify_proof
from hopseal.log.refusals import Reason, TransparencyError
from hopseal.log.tree import ProofError
from tlog_parts import LOG_KEY, NOW, OTHER_LOG_KEY, W1, W2, W3, MemoryLog, cosigned

TREE = MemoryLog.of(11)
POLICY = policy_of([LOG_KEY.key], [[W1.key], [W2.key], [W3.key]], 2)
NOTE = cosigned(TREE.note(), TREE.checkpoint(), [(W1, NOW - 30), (W2, NOW - 20), (W3, NOW - 10)])
HEAD = b"c2sp.org/tlog-proof@v1\n"


def reason_of(function, *arguments) -> Reason:
    with pytest.raises(TransparencyError) as caught:
        function(*arguments)
    return caught.value.reason


@pytest.mark.parametrize("extra", [None, b"", b"opaque"])
@pytest.mark.parametrize("index", range(11))
def test_every_leaf_has_a_proof_that_verifies_after_a_round_trip(index: int, extra: bytes | None) -> None:
    proof = TREE.proof(index, NOTE)
    proof = Proof(index, proof.path, NOTE, extra)
    read = parse_proof(proof.encode())
    assert read == proof
    cosigned_checkpoint = verify_proof(read, hash_leaf(TREE.leaves[index]), POLICY, NOW)
    assert cosigned_checkpoint.checkpoint == TREE.checkpoint()


def test_the_only_leaf_of_a_log_has_a_proof_without_hashes() -> None:
    tree = MemoryLog.of(1)
    text = tree.proof(0, tree.note()).encode()
    assert text == HEAD + b"index 0\n\n" + tree.note()
    assert verify_proof(parse_proof(text), hash_leaf(tree.leaves[0]), policy_of([LOG_KEY.key], [], 0), NOW).time is None


def test_a_leaf_is_dated_by_the_moment_its_quorum_was_met() -> None:
    proven = verify_proof(TREE.proof(3, NOTE), hash_leaf(TREE.leaves[3]), POLICY, NOW)
    assert proven.time == NOW - 20
    assert [each.time for each in proven.cosignatures] == [NOW - 30, NOW - 20, NOW - 10]


def test_another_leaf_or_another_place_is_refused() -> None:
    proof = TREE.proof(3, NOTE)
    with pytest.raises(ProofError):
        verify_proof(proof, hash_leaf(TREE.leaves[4]), POLICY, NOW)
    with pytest.raises(ProofError):
        verify_proof(Proof(4, proof.path, NOTE), hash_leaf(TREE.leaves[3]), POLICY, NOW)
    for path in (proof.path[:-1], (*proof.path, bytes(32)), proof.path[::-1], ()):
        with pytest.raises(InvalidError):
            verify_proof(Proof(3, path, NOTE), hash_leaf(TREE.leaves[3]), POLICY, NOW)


def test_a_proof_from_a_fork_is_refused_under_the_cosigned_root() -> None:
    fork = MemoryLog.of(11, fork_at=3)
    with pytest.raises(ProofError):
        verify_proof(fork.proof(3, NOTE), hash_leaf(fork.leaves[3]), POLICY, NOW)
    assert reason_of(verify_proof, fork.proof(3, fork.note()), hash_leaf(fork.leaves[3]), POLICY, NOW) is Reason.QUORUM


def test_a_proof_of_another_log_is_refused() -> None:
    other = MemoryLog.of(11, signer=OTHER_LOG_KEY)
    proof = other.proof(3, other.note())
    assert reason_of(verify_proof, proof, hash_leaf(other.leaves[3]), POLICY, NOW) is Reason.ORIGIN


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"c2sp.org/tlog-proof@v1",
        b"c2sp.org/tlog-proof@v2\nindex 0\n",
        b" c2sp.org/tlog-proof@v1\nindex 0\n",
        b"c2sp.org/tlog-proof@v1\r\nindex 0\r\n",
        HEAD,
        HEAD + b"index\n",
        HEAD + b"index \n",
        HEAD + b"index 00\n",
        HEAD + b"index +0\n",
        HEAD + b"index 0 \n",
        HEAD + b"index  0\n",
        HEAD + b"index -1\n",
        HEAD + b"index %d\n" % 2**63,
        HEAD + b"Index 0\n",
        HEAD + b"extra AA==\n",
        HEAD + b"extra\nindex 0\n",
        HEAD + b"extra A\nindex 0\n",
        HEAD + b"extra AB==\nindex 0\n",
        HEAD + b"extra AA==\nextra AA==\nindex 0\n",
        HEAD + b"index 0\nextra AA==\n",
        HEAD + b"index 0\nindex 0\n",
        HEAD + b"index 0\nAAAA\n",
        HEAD + b"index 0\n" + b"\xc3\xa9\n",
        HEAD + b"index 1\n",
        HEAD + b"index 0\n" + b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n" * (MAX_PATH + 1),
    ],
)
def test_what_is_not_exactly_a_proof_is_refused(head: bytes) -> None:
    tree = MemoryLog.of(1)
    assert reason_of(parse_proof, head + b"\n" + tree.note()) in {Reason.PROOF, Reason.NOTE}


def test_a_proof_without_a_checkpoint_is_refused() -> None:
    assert reason_of(parse_proof, HEAD + b"index 0\n") is Reason.PROOF
    assert reason_of(parse_proof, HEAD + b"index 0\n\n") is Reason.NOTE
    assert reason_of(parse_proof, HEAD + b"index 0\n\nno checkpoint\n\n\xe2\x80\x94 a MTIzNDU=\n") is Reason.CHECKPOINT


def test_proofs_at_the_bounds_and_beyond() -> None:
    tree = MemoryLog.of(1)
    longest = Proof(0, (bytes(32),) * MAX_PATH, tree.note(), bytes(MAX_EXTRA_BYTES))
    assert parse_proof(longest.encode()) == longest
    assert reason_of(parse_proof, Proof(0, (), tree.note(), bytes(MAX_EXTRA_BYTES + 1)).encode()) is Reason.PROOF
    assert reason_of(parse_proof, bytes(MAX_PROOF_BYTES + 1)) is Reason.PROOF
    assert MAX_NOTE_BYTES + len(longest.encode()) < MAX_PROOF_BYTES
