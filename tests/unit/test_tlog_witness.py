"""The witness's decision: each refusal, their order, and the text of a request."""

from __future__ import annotations

import pytest

from hopseal.log.checkpoint import Checkpoint
from hopseal.log.log_key import sign_checkpoint
from hopseal.log.note import Note, Signature, parse_note
from hopseal.log.refusals import Reason, TransparencyError
from hopseal.log.signers import log_signer
from hopseal.log.tree import EMPTY_ROOT
from hopseal.log.witness import (
    MAX_PROOF_LINES,
    MAX_REQUEST_BYTES,
    NO_HEAD,
    AddCheckpoint,
    Answer,
    Head,
    WitnessRefusalError,
    decide,
    format_conflict,
    parse_add_checkpoint,
    parse_conflict,
)
from tlog_parts import LOG_KEY, ORIGIN, OTHER_LOG_KEY, MemoryLog, ed25519

TREE = MemoryLog.of(20)
LOGS = {ORIGIN: (LOG_KEY.key,)}
HASH = b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def head(size: int, tree: MemoryLog = TREE) -> dict[str, Head]:
    return {ORIGIN: Head(size, tree.checkpoint(size).root)}


def refusal(request: AddCheckpoint, heads: dict[str, Head] | None = None) -> WitnessRefusalError:
    with pytest.raises(WitnessRefusalError) as caught:
        decide(request, LOGS, heads or {})
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("old", range(21))
def test_whatever_continues_the_latest_checkpoint_is_accepted(old: int) -> None:
    for new in range(old, 21):
        accepted = decide(TREE.request(old, new), LOGS, head(old) if old else {})
        assert (accepted.before.size, accepted.after) == (old, head(new)[ORIGIN])
        assert accepted.checkpoint.checkpoint == TREE.checkpoint(new)


def test_the_first_checkpoint_may_have_any_size_and_needs_no_proof() -> None:
    assert decide(AddCheckpoint(0, (), TREE.note()), LOGS, {}).before == NO_HEAD


def test_an_unknown_origin_is_answered_first() -> None:
    other = MemoryLog.of(3, signer=OTHER_LOG_KEY)
    assert refusal(AddCheckpoint(9, (), other.note())).answer is Answer.UNKNOWN


def test_a_checkpoint_without_a_trusted_signature_is_forbidden_before_sizes_are_looked_at() -> None:
    impostor = MemoryLog.of(3, signer=log_signer(ORIGIN, ed25519(99)))
    assert refusal(AddCheckpoint(9, (), impostor.note())).answer is Answer.UNSIGNED
    note = parse_note(TREE.note())
    forged = Note(note.text, (Signature(ORIGIN, LOG_KEY.key.key_id, bytes(64)),))
    assert refusal(AddCheckpoint(0, (), forged.encode())).answer is Answer.UNSIGNED


def test_an_old_size_above_the_new_one_is_a_bad_request_even_if_it_is_the_latest() -> None:
    assert refusal(AddCheckpoint(9, (), TREE.note(8)), head(9)).answer is Answer.MALFORMED


@pytest.mark.parametrize("old", [0, 4, 6, 20])
def test_another_old_size_than_the_latest_conflicts_and_tells_it(old: int) -> None:
    found = refusal(TREE.request(old), head(5))
    assert (found.answer, found.size) == (Answer.CONFLICT, 5)


def test_an_old_size_where_nothing_was_cosigned_conflicts_with_zero() -> None:
    assert refusal(TREE.request(4)).size == 0


@pytest.mark.parametrize(("old", "new"), [(5, 20), (8, 20), (5, 6), (1, 20)])
def test_a_proof_that_is_wrong_in_any_way_is_inconsistent(old: int, new: int) -> None:
    proof = TREE.consistency(old, new)
    wrong = [
        (),
        proof[:-1],
        (*proof, bytes(32)),
        proof[::-1] if len(proof) > 1 else (bytes(32),),
        (bytes(32), *proof[1:]),
    ]
    for each in wrong:
        assert refusal(AddCheckpoint(old, each, TREE.note(new)), head(old)).answer is Answer.INCONSISTENT


def test_a_fork_is_inconsistent_whatever_proof_comes_with_it() -> None:
    fork = MemoryLog.of(20, fork_at=4)
    for proof in (fork.consistency(5, 20), TREE.consistency(5, 20)):
        found = refusal(AddCheckpoint(5, proof, fork.note(20)), head(5))
        assert (found.answer, found.evidence) == (Answer.INCONSISTENT, fork.note(20))


def test_two_roots_for_one_size_are_never_accepted() -> None:
    fork = MemoryLog.of(20, fork_at=4)
    found = refusal(AddCheckpoint(20, (), fork.note(20)), head(20))
    assert (found.answer, found.evidence) == (Answer.FORKED, fork.note(20))
    assert decide(AddCheckpoint(20, (), TREE.note(20)), LOGS, head(20)).after == head(20)[ORIGIN]


def test_a_proof_where_none_belongs_is_inconsistent() -> None:
    assert refusal(AddCheckpoint(0, (bytes(32),), TREE.note())).answer is Answer.INCONSISTENT
    assert refusal(AddCheckpoint(20, (bytes(32),), TREE.note()), head(20)).answer is Answer.INCONSISTENT


def test_an_empty_tree_has_the_empty_root_or_is_inconsistent() -> None:
    empty = MemoryLog()
    assert decide(AddCheckpoint(0, (), empty.note()), LOGS, {}).after == Head(0, EMPTY_ROOT)
    wrong = sign_checkpoint(Checkpoint(ORIGIN, 0, bytes(32)), LOG_KEY)
    assert refusal(AddCheckpoint(0, (), wrong)).answer is Answer.FORKED
    assert refusal(AddCheckpoint(0, (), wrong), {ORIGIN: NO_HEAD}).answer is Answer.FORKED


@pytest.mark.parametrize("proof", [(), (bytes(32),), tuple(bytes([n]) * 32 for n in range(MAX_PROOF_LINES))])
def test_a_request_is_read_as_it_was_written(proof: tuple[bytes, ...]) -> None:
    request = AddCheckpoint(7, proof, TREE.note())
    assert parse_add_checkpoint(request.encode()) == request


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"old",
        b"old\n",
        b"old \n",
        b"old 01\n",
        b"old +1\n",
        b"old -1\n",
        b"old 1 \n",
        b"old  1\n",
        b" old 1\n",
        b"Old 1\n",
        b"old\t1\n",
        b"old 1\r\n",
        b"old \xd9\xa1\n",
        b"old %d\n" % 2**63,
        b"old 1\nAAAA\n",
        b"old 1\n" + HASH[:-1] + b" \n",
        b"old 1\n" + HASH * (MAX_PROOF_LINES + 1),
        b"size 1\n",
    ],
)
def test_what_is_not_exactly_a_request_is_malformed(head: bytes) -> None:
    with pytest.raises(WitnessRefusalError) as caught:
        parse_add_checkpoint(head + b"\n" + TREE.note())
    assert caught.value.answer is Answer.MALFORMED


def test_a_request_without_a_checkpoint_is_malformed() -> None:
    with pytest.raises(WitnessRefusalError):
        parse_add_checkpoint(b"old 0\n")
    for note in (b"", b"text\n", b"no checkpoint\n\n\xe2\x80\x94 a MTIzNDU=\n"):
        assert refusal(parse_add_checkpoint(b"old 0\n\n" + note)).answer is Answer.MALFORMED


def test_a_request_that_is_too_large_is_malformed() -> None:
    with pytest.raises(WitnessRefusalError) as caught:
        parse_add_checkpoint(b"old 0\n\n" + b"x" * MAX_REQUEST_BYTES)
    assert "longer" in caught.value.detail
    with pytest.raises(WitnessRefusalError) as caught:
        decide(parse_add_checkpoint(b"old 0\n\n" + b"x" * (MAX_REQUEST_BYTES - 7)), LOGS, {})
    assert caught.value.answer is Answer.MALFORMED


def test_a_conflict_tells_a_size() -> None:
    assert parse_conflict(format_conflict(20_852_163)) == 20_852_163


@pytest.mark.parametrize(
    "body", [b"", b"\n", b"5", b"05\n", b"5\n\n", b"-5\n", b" 5\n", b"5\r\n", b"\xff\n", b"<html>\n"]
)
def test_a_conflict_without_exactly_a_size_is_refused(body: bytes) -> None:
    with pytest.raises(TransparencyError) as caught:
        parse_conflict(body)
    assert caught.value.reason is Reason.ANSWER
