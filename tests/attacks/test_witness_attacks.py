"""Attacks on a running witness: by a log that lies, by strangers, and by crashes. It never cosigns two histories."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest

from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.cosignature import verify_cosignature
from hopseal.log.log_key import verify_log_signature
from hopseal.log.signers import log_signer
from hopseal.log.witness import MAX_REQUEST_BYTES, AddCheckpoint
from hopseal.witness.memory import parse_memory
from hopseal.witness.state import hash_origin
from tlog_parts import LOG_KEY, ORIGIN, OTHER_LOG_KEY, MemoryLog, ed25519
from waiting import wait_until
from witness_process import WitnessProcess

TREE = MemoryLog.of(40)
FORK = MemoryLog.of(40, fork_at=7)


def remembered(witness: WitnessProcess) -> tuple[int, bytes]:
    head = parse_memory((witness.state / "state").read_bytes()).heads[ORIGIN]
    return head.size, head.root


def test_a_fork_is_refused_with_proof_in_the_log_and_nothing_is_remembered_of_it(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        assert witness.ask(TREE.request(0, 10)).status == 200
        for request, code in (
            (FORK.request(10, 20), b"witness_inconsistent"),
            (AddCheckpoint(10, TREE.consistency(10, 20), FORK.note(20)), b"witness_inconsistent"),
            (AddCheckpoint(10, (), FORK.note(20)), b"witness_inconsistent"),
            (AddCheckpoint(10, (), FORK.note(10)), b"witness_forked"),
        ):
            answer = witness.ask(request)
            assert (answer.status, answer.body.partition(b":")[0]) == (422, code)
        assert remembered(witness) == (10, TREE.checkpoint(10).root)
        wait_until(lambda: len(witness.events("request")) == 5, what="events")
        told = witness.events("request")[1:]
        assert [event["alarm"] for event in told] == [False, False, False, True]
        proof = parse_signed_checkpoint(told[-1]["checkpoint"].encode())
        assert verify_log_signature(proof, [LOG_KEY.key]).checkpoint == FORK.checkpoint(10)
        assert witness.ask(TREE.request(10, 20)).status == 200


@pytest.mark.parametrize("fork_at", [0, 1, 9])
def test_a_log_that_cut_its_tail_and_went_on_otherwise_is_refused(tmp_path: Path, fork_at: int) -> None:
    rewritten = MemoryLog.of(40, fork_at=fork_at)
    with WitnessProcess(tmp_path / "w") as witness:
        assert witness.ask(TREE.request(0, 10)).status == 200
        assert witness.ask(rewritten.request(fork_at, 20)).body == b"10\n"
        assert witness.ask(rewritten.request(10, 20)).status == 422


def test_a_replayed_old_checkpoint_is_not_cosigned_again(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        first = TREE.request(0, 10)
        assert witness.ask(first).status == 200
        assert witness.ask(TREE.request(10, 20)).status == 200
        assert witness.ask(first).body == b"20\n"
        assert witness.ask(AddCheckpoint(10, (), TREE.note(10))).body == b"20\n"
        assert witness.ask(AddCheckpoint(20, (), TREE.note(10))).status == 400
        assert remembered(witness)[0] == 20


def test_a_stranger_cannot_have_anything_cosigned_nor_learn_a_size(tmp_path: Path) -> None:
    stranger = MemoryLog.of(5, signer=OTHER_LOG_KEY)
    impostor = MemoryLog.of(5, signer=log_signer(ORIGIN, ed25519(99)))
    with WitnessProcess(tmp_path / "w") as witness:
        assert witness.ask(TREE.request(0, 10)).status == 200
        assert witness.ask(stranger.request(0)).status == 404
        answer = witness.ask(impostor.request(0))
        assert (answer.status, b"10" in answer.body) == (403, False)
        assert remembered(witness)[0] == 10


def test_a_stranger_cannot_raise_an_alarm_with_a_right_checkpoint_and_a_wrong_proof(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        assert witness.ask(TREE.request(0, 10)).status == 200
        assert witness.ask(AddCheckpoint(10, (bytes(32),), TREE.note(20))).status == 422
        assert witness.ask(AddCheckpoint(10, (bytes(32),), TREE.note(10))).status == 422
        wait_until(lambda: len(witness.events("request")) == 3, what="events")
        assert not [event for event in witness.events("request") if event.get("alarm")]
        assert witness.ask(TREE.request(10, 20)).status == 200


def test_of_many_histories_at_once_exactly_one_is_cosigned(tmp_path: Path) -> None:
    forks = [MemoryLog.of(12, fork_at=10 + (n % 2)) for n in range(8)]
    forks += [MemoryLog([*TREE.leaves[:10], b"own %d" % n]) for n in range(8)]
    barrier = threading.Barrier(len(forks))
    with WitnessProcess(tmp_path / "w", more="limits: {requests_per_s: 1000}") as witness:
        assert witness.ask(TREE.request(0, 10)).status == 200

        def race(log: MemoryLog) -> tuple[int, bytes]:
            request = log.request(10)
            barrier.wait()
            return witness.ask(request).status, log.checkpoint().root

        with ThreadPoolExecutor(len(forks)) as pool:
            answers = list(pool.map(race, forks))
        winners = {root for status, root in answers if status == 200}
        assert len(winners) == 1
        assert {status for status, _ in answers} <= {200, 409, 422}
        assert remembered(witness)[1] in winners
        assert [status for status, root in answers if root not in winners].count(409) > 0


_DIES_BEFORE_ANSWERING = """
import os, signal
from hopseal.witness import state
advance = state.WitnessState.advance
def dies(self, accepted, at, note):
    {before}
    advance(self, accepted, at, note)
    {after}
def kill(accepted):
    if accepted.after.size == 20:
        os.kill(os.getpid(), signal.SIGKILL)
state.WitnessState.advance = dies
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_the_write_it_never_cosigns_the_other_history_afterwards(tmp_path: Path, moment: str) -> None:
    where = {"before": "pass", "after": "pass", moment: "kill(accepted)"}
    witness = WitnessProcess(tmp_path / "w", prelude=_DIES_BEFORE_ANSWERING.format(**where)).start()
    assert witness.ask(TREE.request(0, 10)).status == 200
    with pytest.raises(OSError, match=r"."):
        witness.ask(TREE.request(10, 20))
    assert witness.process is not None
    witness.process.wait(20)
    with WitnessProcess(tmp_path / "w") as restarted:
        assert remembered(restarted)[0] == (20 if moment == "after" else 10)
        assert restarted.ask(FORK.request(10, 20)).status in {409, 422}
        answer = restarted.ask(TREE.request(remembered(restarted)[0], 20))
        assert answer.status == 200
        for key, signature in zip(restarted.keys, answer.signatures, strict=True):
            verify_cosignature(key, signature, TREE.checkpoint(20))


def test_killed_again_and_again_under_load_it_only_ever_goes_forward(tmp_path: Path) -> None:
    witness = WitnessProcess(tmp_path / "w", more="limits: {requests_per_s: 10000}")
    tree = MemoryLog.of(10_000)
    acknowledged = 0
    for round_number in range(4):
        witness.start()
        killer = threading.Timer(0.05 * (round_number + 1), witness.kill)
        killer.start()
        try:
            size = witness.events("witness_started")[0]["remembered"].get(ORIGIN, 0)
            for new in range(size + 1, tree.size):
                assert witness.ask(tree.request(new - 1, new)).status == 200
                acknowledged = new
        except (OSError, HTTPException):
            pass
        killer.join()
    with witness.start() as restarted:
        size, root = remembered(restarted)
        assert acknowledged <= size <= acknowledged + 1
        assert root == tree.checkpoint(size).root


def test_a_second_witness_on_the_same_folder_does_not_start(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as first:
        second = WitnessProcess(tmp_path / "other")
        second._config.write_text(first._config.read_text())
        assert second.spawn().wait(20) == 3
        assert "witness_state_in_use" in second.output
        assert first.ask(TREE.request(0, 10)).status == 200


def test_a_state_put_back_from_an_older_copy_does_not_start(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        witness.ask(TREE.request(0, 10))
        old = (witness.state / "state").read_bytes()
        witness.ask(TREE.request(10, 20))
        assert witness.stop() == 0
        (witness.state / "state").write_bytes(old)
        assert witness.spawn().wait(20) == 2
        assert "witness_state_rolled_back" in witness.output


def test_a_whole_folder_put_back_from_an_older_copy_is_found_by_the_next_cosigned_checkpoint(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        witness.ask(TREE.request(0, 10))
        assert witness.stop() == 0
        copy = {path: path.read_bytes() for path in witness.state.rglob("*") if path.is_file()}
        witness.start()
        witness.ask(TREE.request(10, 20))
        note = (witness.state / "checkpoints" / hash_origin(ORIGIN)).read_bytes()
        assert witness.stop() == 0
        for path, data in copy.items():
            path.write_bytes(data)
        witness.start()
        answer = witness.ask(AddCheckpoint(10, TREE.consistency(10, 20), note))
        assert (answer.status, answer.body.partition(b":")[0]) == (503, b"witness_state_rolled_back")
        assert remembered(witness)[0] == 10


def test_a_body_that_is_too_large_is_refused_whatever_it_says_of_its_length(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        assert witness.ask(b"x" * (MAX_REQUEST_BYTES + 1)).status == 413
        assert witness.ask(b"x" * MAX_REQUEST_BYTES).status == 400
        with socket.create_connection(("127.0.0.1", witness.port), timeout=20) as sock:
            sock.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(3):
                sock.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            assert sock.recv(1_000).startswith(b"HTTP/1.1 413")


QUICK = "limits: {request_s: 1.0, idle_s: 1.0, connections: 8, connections_per_peer: 4, requests_per_s: 1000}"


@pytest.mark.parametrize(
    ("begin", "answered"),
    [
        (b"", b""),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: a\r\n", b""),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nold 0\n", b"HTTP/1.1 408"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 404"),
    ],
    ids=["silence", "half a head", "half a body", "nothing after the first request"],
)
def test_a_slow_or_idle_connection_is_cut(tmp_path: Path, begin: bytes, answered: bytes) -> None:
    with WitnessProcess(tmp_path / "w", more=QUICK) as witness:
        with socket.create_connection(("127.0.0.1", witness.port), timeout=20) as sock:
            sock.sendall(begin)
            got = read_to_end(sock)
        assert got.startswith(answered)
        assert witness.ask(TREE.request(0, 10)).status == 200
        assert not witness.events("library")


def read_to_end(sock: socket.socket) -> bytes:
    got = b""
    try:
        while chunk := sock.recv(4_096):
            got += chunk
    except ConnectionResetError:
        pass
    return got


def test_a_body_that_ends_early_is_no_noise(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        with socket.create_connection(("127.0.0.1", witness.port), timeout=20) as sock:
            sock.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nold 0\n")
        wait_until(lambda: witness.events("request"), what="the request is told")
        assert witness.events("request")[0]["code"] == "request_cut"
        assert not witness.events("library")


def test_connections_of_one_address_beyond_its_share_are_closed_and_come_back_when_others_end(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w", more=QUICK.replace("1.0", "20.0")) as witness:
        held = [socket.create_connection(("127.0.0.1", witness.port), timeout=20) for _ in range(4)]
        with socket.create_connection(("127.0.0.1", witness.port), timeout=20) as fifth:
            assert read_to_end(fifth) == b""
        for sock in held:
            sock.close()
        wait_until(lambda: _is_served(witness), what="free again")


def _is_served(witness: WitnessProcess) -> bool:
    try:
        return witness.http("GET", "/").status == 404
    except OSError:
        return False


def test_a_flood_of_requests_is_answered_with_too_many(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w", more="limits: {requests_per_s: 2}") as witness:
        began = time.monotonic()
        statuses = [witness.http("GET", "/").status for _ in range(12)]
        allowed = statuses.count(404)
        assert 4 <= allowed <= 4 + 2 * (time.monotonic() - began + 1)
        assert set(statuses) == {404, 429}
