"""A running witness: what it answers, that it remembers, and how it ends."""

from __future__ import annotations

import http.client
import signal
import socket
import time
from pathlib import Path

from hopseal.custody.encoding import sha256
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.cosignature import verify_cosignature
from hopseal.log.log_key import verify_log_signature
from hopseal.log.policy import policy_of
from tlog_parts import LOG_KEY, ORIGIN, OTHER_LOG_KEY, MemoryLog
from waiting import wait_until
from witness_process import WitnessProcess

TREE = MemoryLog.of(20)
CHECKPOINT_PATH = f"/{sha256(ORIGIN.encode()).hex()}/checkpoint"


def test_a_checkpoint_comes_back_with_a_cosignature_of_each_key(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        answer = witness.ask(TREE.request(0, 5))
        assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
        for key, signature in zip(witness.keys, answer.signatures, strict=True):
            cosignature = verify_cosignature(key, signature, TREE.checkpoint(5))
            assert abs(cosignature.time - time.time()) < 10


def test_a_conflict_tells_the_size_and_the_client_goes_on_from_there(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        witness.ask(TREE.request(0, 5))
        answer = witness.ask(TREE.request(0, 9))
        assert (answer.status, answer.body, answer.content_type) == (409, b"5\n", "text/x.tlog.size")
        assert witness.ask(TREE.request(5, 9)).status == 200


def test_the_latest_cosigned_checkpoint_is_served_to_monitors(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        assert witness.http("GET", CHECKPOINT_PATH).status == 404
        answer = witness.ask(TREE.request(0, 5))
        served = witness.http("GET", CHECKPOINT_PATH)
        found = parse_signed_checkpoint(served.body)
        assert verify_log_signature(found, [LOG_KEY.key]).checkpoint == TREE.checkpoint(5)
        policy = policy_of([LOG_KEY.key], [[key] for key in witness.keys], 2)
        assert policy.verify(found, int(time.time())).checkpoint == TREE.checkpoint(5)
        assert served.body.endswith(answer.body)


def test_a_restarted_witness_remembers_and_has_the_same_keys(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        keys = witness.keys
        assert witness.ask(TREE.request(0, 5)).status == 200
        assert witness.stop() == 0
        assert witness.events("witness_stopped")
        witness.start()
        assert witness.keys == keys
        assert witness.ask(TREE.request(0, 5)).body == b"5\n"
        assert witness.http("GET", CHECKPOINT_PATH).status == 200
        assert witness.events("witness_started")[0]["remembered"] == {ORIGIN: 5}


def test_logs_do_not_touch_each_other(tmp_path: Path) -> None:
    other = MemoryLog.of(9, signer=OTHER_LOG_KEY)
    with WitnessProcess(tmp_path / "w", (LOG_KEY.key, OTHER_LOG_KEY.key)) as witness:
        assert witness.ask(TREE.request(0, 5)).status == 200
        assert witness.ask(other.request(0, 9)).status == 200
        assert witness.ask(TREE.request(5, 6)).status == 200
        assert witness.ask(other.request(0)).body == b"9\n"


def test_two_requests_go_over_one_connection(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        connection = http.client.HTTPConnection("127.0.0.1", witness.port, timeout=20)
        ports = set()
        for old, new in ((0, 5), (5, 9)):
            connection.request("POST", "/add-checkpoint", TREE.request(old, new).encode())
            assert connection.getresponse().read()
            ports.add(connection.sock.getsockname())
        connection.close()
        assert len(ports) == 1


def test_everything_else_is_refused_in_one_plain_line(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        answers = {
            "path": witness.http("GET", "/"),
            "method": witness.http("GET", "/add-checkpoint"),
            "origin hash": witness.http("GET", f"/{'A' * 64}/checkpoint"),
            "encoding": witness.ask(TREE.request(0, 5), **{"Content-Encoding": "gzip"}),
            "body": witness.ask(b"nothing"),
        }
        assert {name: answer.status for name, answer in answers.items()} == {
            "path": 404,
            "method": 405,
            "origin hash": 404,
            "encoding": 415,
            "body": 400,
        }
        assert all(answer.body.count(b"\n") == 1 for answer in answers.values())


def test_each_request_is_one_line_of_json_whatever_is_in_it(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness:
        witness.ask(TREE.request(0, 5))
        witness.http("GET", "/%0a%1b[31m{%22event%22:%22forged%22}")
        wait_until(lambda: len(witness.events("request")) == 2, what="two events")
        first, second = witness.events("request")
        assert (first["origin"], first["size"], first["status"]) == (ORIGIN, 5, 200)
        assert (second["status"], second["peer"]) == (404, "127.0.0.1")
        assert len(witness.output.splitlines()) == 3


def half_a_request(port: int) -> socket.socket:
    """A connection on which a request has begun, and its body is missing."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    sock.sendall(
        b"POST /add-checkpoint HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(TREE.request(0).encode())
    )
    return sock


def test_a_request_that_was_begun_is_answered_before_the_end(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness, half_a_request(witness.port) as sock:
        wait_until(lambda: _is_reading(witness), what="the request")
        assert witness.process is not None
        witness.process.send_signal(signal.SIGTERM)
        wait_until(lambda: witness.events("witness_stopping"), what="stopping")
        sock.sendall(TREE.request(0).encode())
        assert b"200 OK" in sock.recv(1_000)
        assert witness.process.wait(20) == 0


def _is_reading(witness: WitnessProcess) -> bool:
    """The witness has taken everything that was sent to it."""
    port = f"{witness.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = [row for row in rows if row[1].endswith(f":{port}") and row[3] == "01"]
    return bool(mine) and all(row[4].endswith(":00000000") for row in mine)


def test_the_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w") as witness, half_a_request(witness.port):
        wait_until(lambda: _is_reading(witness), what="the request")
        assert witness.process is not None
        witness.process.send_signal(signal.SIGINT)
        wait_until(lambda: witness.events("witness_stopping"), what="stopping")
        witness.process.send_signal(signal.SIGINT)
        assert witness.process.wait(20) == -signal.SIGINT


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "w1") as first:
        second = WitnessProcess(tmp_path / "w2")
        text = second._config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{first.port}")
        second._config.write_text(text)
        assert second.spawn().wait(20) == 3
        assert "witness_listen_unavailable" in second.output
