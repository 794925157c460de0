"""The custody log under crashes, full disks and second writers, and the memory that is rebuilt from it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.server
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker._dataplane import DataPlaneError
from broker.audit.journal import Journal
from dataplane_nodes import (
    TRUST_DOMAIN,
    Component,
    Node,
    Seen,
    answer,
    call,
    pair,
    spiffe_id,
)
from dataplane_peer import Message, send
from hopseal.log.entries import BundleEntry, CertificateEntry, Direction, RecordEntry, StartEntry, StatementEntry
from hopseal.log.offline import verify_chain_offline
from hopseal.log.reader import read_log
from hopseal.svid import X509Svid
from killed_node import NodeProcess, node_process
from svid_authority import Authority
from waiting import wait_until


@pytest.fixture
def authority() -> Authority:
    return Authority(TRUST_DOMAIN)


@pytest.fixture
def svid(authority: Authority) -> X509Svid:
    return authority.issue(spiffe_id("orchestrator"))


@pytest.fixture
def killed(tmp_path: Path, authority: Authority) -> Iterator[NodeProcess]:
    with node_process(tmp_path, authority) as node:
        yield node


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k,mode=0700", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_log_begins_with_a_start_and_holds_each_bundle_and_certificate_once(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, _tool):
        for _ in range(3):
            call(a)
        b.plane.set_bundles([(TRUST_DOMAIN, [b.authority.der], 7)])
        call(a)
        entries = b.log().entries
        assert isinstance(entries[0], StartEntry)
        assert b.log().node == "b"
        assert len([each for each in entries if isinstance(each, BundleEntry)]) == 1
        # The caller's, which sealed the records, and the own one, which sealed the receipts.
        assert len([each for each in entries if isinstance(each, CertificateEntry)]) == 2
        assert len([each for each in entries if isinstance(each, RecordEntry)]) == 4
        b.plane.set_bundles([(TRUST_DOMAIN, [b.authority.der, Authority(TRUST_DOMAIN).der], 8)])
        wait_until(lambda: len([each for each in b.log().entries if isinstance(each, BundleEntry)]) == 2)


def test_after_a_kill_every_replay_is_still_refused(killed: NodeProcess, svid: X509Svid) -> None:
    messages = [Message(svid).wire() for _ in range(5)]
    port = killed.start()
    assert [send(port, svid, data).status for data in messages] == [200] * 5
    killed.kill()
    port = killed.start()
    assert [send(port, svid, data).code for data in messages] == ["custody_replayed"] * 5
    assert send(port, svid, Message(svid).wire()).status == 200
    assert not killed.log().damage


def test_after_a_kill_a_denied_record_gets_no_second_receipt(killed: NodeProcess, svid: X509Svid) -> None:
    """Two receipts for one record would accuse the callee."""
    killed.setup["policies"] = "forbid(principal, action, resource);"
    message, receipts = Message(svid).wire(), []
    for _ in range(2):
        port = killed.start()
        answers = [send(port, svid, message) for _ in range(2)]
        assert [each.code for each in answers if each] == ["custody_forbidden"] * 2
        receipts += ["custody-receipt" in each.headers for each in answers if each]
        killed.kill()
    assert receipts == [True, False, False, False]
    sent = [each for each in killed.log().entries if isinstance(each, StatementEntry)]
    assert len(sent) == 1


def test_after_a_kill_the_roots_of_a_chain_still_come_from_one_issuer(
    killed: NodeProcess, svid: X509Svid, authority: Authority
) -> None:
    first = Message(svid)
    port = killed.start()
    assert send(port, svid, first.wire()).status == 200
    killed.kill()
    port = killed.start()
    other_id = f"spiffe://{TRUST_DOMAIN}/elsewhere"
    other = authority.issue(other_id)
    foreign = Message(other)
    claims = {"iss": type(foreign.record.iss).parse(other_id), "cid": first.record.cid}
    assert send(port, other, foreign.changed(**claims).wire()).code == "custody_chain"


# Python's ssl forgets a socket that is reset between accept and wrapping; that is what killing does here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_killed_again_and_again_under_load_it_loses_no_acknowledged_record(killed: NodeProcess, svid: X509Svid) -> None:
    acknowledged: set[str] = set()
    for _ in range(8):
        port = killed.start()

        def one(_: int, port: int = port) -> None:
            message = Message(svid)
            answer = send(port, svid, message.wire())
            if answer is not None and answer.status == 200:
                acknowledged.add(message.record.jti)

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            running = [threads.submit(one, n) for n in range(40)]
            enough = len(acknowledged) + 5
            wait_until(lambda enough=enough: len(acknowledged) > enough)
            killed.kill()
            concurrent.futures.wait(running)
    killed.start()  # cuts off what was torn
    contents = killed.log()
    logged = {each.jti for each in contents.entries if isinstance(each, RecordEntry) and each.accepted}
    assert acknowledged <= logged
    assert not contents.damage
    assert not contents.torn_bytes


def test_a_torn_last_line_is_cut_off_and_the_numbering_goes_on(killed: NodeProcess, svid: X509Svid) -> None:
    port = killed.start()
    data = Message(svid).wire()
    send(port, svid, data)
    killed.kill()
    whole = killed.log_file.read_bytes().rstrip(b"\0")
    killed.log_file.write_bytes(whole + b'0badc0de {"n":99,"at_ms":1,"ty' + bytes(64))
    port = killed.start()
    assert send(port, svid, data).code == "custody_replayed"
    contents = killed.log()
    assert not contents.damage
    assert not contents.torn_bytes
    assert killed.log_file.read_bytes().startswith(whole)


def test_with_damage_in_the_middle_records_from_before_the_start_are_refused(
    killed: NodeProcess, svid: X509Svid
) -> None:
    port = killed.start()
    data = Message(svid).wire()
    assert send(port, svid, data).status == 200
    killed.kill()
    lines = killed.log_file.read_bytes().splitlines(keepends=True)
    position = next(n for n, line in enumerate(lines) if b'"type":"rec"' in line)
    lines[position] = lines[position].replace(b"accepted", b"acceptex")
    killed.log_file.write_bytes(b"".join([*lines, lines[0]]))
    port = killed.start()
    assert send(port, svid, data).code == "custody_unavailable"
    assert send(port, svid, Message(svid).wire()).code == "custody_unavailable"
    later = Message(svid)
    now = int(time.time()) + 10
    # Within the allowed skew a record may be dated just after the doubtful time.
    wait_until(
        lambda: (
            send(
                port, svid, later.changed(jti=Message(svid).record.jti, iat=int(time.time()) + 9, exp=now + 30).wire()
            ).status
            == 200
        )
    )
    assert lines[position] in killed.log_file.read_bytes()


def test_a_full_disk_fails_calls_on_either_side_and_heals_by_itself(tmp_path: Path, small_disk: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    path = tmp_path / "tool.sock"
    logs = {"out": small_disk / "a", "in": small_disk / "b"}
    with Component(path) as tool:
        for folder in logs.values():
            folder.mkdir()
        a = Node(tmp_path / "a", authority, settings={"log_dir": str(logs["out"])}).start()
        b = Node(
            tmp_path / "b", authority, caller=None, listens={"tool": path}, settings={"log_dir": str(logs["in"])}
        ).start()
        a.route(tool=b.port)
        try:
            assert call(a).status == 200
            ballast = small_disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"\0" * 512)
            codes = {call(a).code for _ in range(100)}
            assert codes <= {None, "log_unavailable", "custody_unavailable"}
            assert "log_unavailable" in codes or "custody_unavailable" in codes
            accepted = [
                each
                for each in read_log((logs["in"] / "custody.log").read_bytes()).entries
                if isinstance(each, RecordEntry) and each.accepted and each.direction is Direction.RECEIVED
            ]
            assert len(tool.seen) == len(accepted)  # nothing reached the component without its record
            failing = a if a.of("log_failed") else b
            wait_until(lambda: failing.of("log_failed"))
            assert json.loads(failing.plane.stats())["log"]["healthy"] is False
            ballast.unlink()
            wait_until(lambda: failing.of("log_recovered"))
            assert json.loads(failing.plane.stats())["log"]["healthy"] is True
            assert call(a).status == 200
            for folder in logs.values():
                contents = read_log((folder / "custody.log").read_bytes())
                assert not contents.damage
                assert not contents.torn_bytes
                for each in contents.entries:
                    if isinstance(each, RecordEntry) and each.accepted:
                        assert verify_chain_offline(contents.entries, each.cid).verified
        finally:
            a.stop()
            b.stop()


def test_a_log_that_somebody_cuts_off_takes_no_more_calls(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, tool):
        assert call(a).status == 200
        os.truncate(a.log_dir / "custody.log", 10)
        got = call(a)
        assert (got.code, got.status) == ("log_unavailable", 503)
        assert len(tool.seen) == 1


def test_two_writers_of_one_log_are_refused(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    first = Node(tmp_path / "one", authority).start()
    second = Node(tmp_path / "two", authority, settings={"log_dir": str(first.log_dir)})
    try:
        with pytest.raises(DataPlaneError) as caught:
            second.plane.start()
        assert caught.value.args[0] == "log_locked"
        assert not second.out.exists()
    finally:
        first.stop()
        second.plane.stop()


@pytest.mark.parametrize("kind", ["missing", "symlink", "folder"])
def test_a_log_path_that_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    node = Node(tmp_path / "n", Authority(TRUST_DOMAIN))
    if kind == "missing":
        node.log_dir.rmdir()
    elif kind == "symlink":
        (node.log_dir / "custody.log").symlink_to(tmp_path / "elsewhere")
    else:
        (node.log_dir / "custody.log").mkdir()
    with pytest.raises(DataPlaneError) as caught:
        node.plane.start()
    assert caught.value.args[0] == "log_unavailable"
    assert not (tmp_path / "elsewhere").exists()


def test_the_log_is_for_its_owner_only(tmp_path: Path) -> None:
    node = Node(tmp_path / "n", Authority(TRUST_DOMAIN)).start()
    node.stop()
    assert (node.log_dir / "custody.log").stat().st_mode & 0o777 == 0o600


def test_the_leaves_that_the_writer_tells_are_those_of_the_journal(tmp_path: Path) -> None:
    """Of records, receipts, certificates and refusals, on both sides; the tiler takes one for the other."""
    with pair(tmp_path) as (a, b, _tool):
        assert a.plane.take_leaves(0, 1) is b.plane.take_leaves(0, 1) is None
        # What a start writes, which may be before leaves were asked for, is durable before a call is.
        assert call(a).status == 200
        starts = {node.log_dir: node.plane.log_durable() for node in (a, b)}
        assert [call(a).status for _ in range(3)] == [200] * 3
        svid = b.authority.issue(spiffe_id("orchestrator"))
        replayed = Message(svid).wire()
        assert [send(b.port, svid, replayed).code for _ in range(2)] == [None, "custody_replayed"]
        for node in (a, b):
            start, end = starts[node.log_dir], node.plane.log_durable()
            journal = list(Journal(node.log_dir).read_leaves(start, end))
            assert journal == node.plane.take_leaves(start, end)
            assert node.plane.take_leaves(start, end) is None
        kinds = {leaf.split()[1] for leaf in journal}
        assert kinds >= {b"rec", b"rcp", b"cert", b"refused"}


def test_a_call_within_a_node_waits_for_two_writes(tmp_path: Path) -> None:
    """Its record is durable as sent before anything else; its copy stands before the receipt, in the same log."""
    path = tmp_path / "tool.sock"
    with Component(path) as tool:
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path}).start()
        try:
            found: list[list[tuple[str, Direction | None]]] = []

            def look(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
                found.append(kinds_in(node))
                answer(handler, b"ok")

            tool.respond = look
            assert call(node).status == 200
            assert (("rec", Direction.SENT)) in found[0]
            wait_until(lambda: ("rcp", Direction.RECEIVED) in kinds_in(node))
            sent, received = ("rec", Direction.SENT), ("rec", Direction.RECEIVED)
            order = [each for each in kinds_in(node) if each in {sent, received, ("rcp", Direction.SENT)}]
            assert order == [sent, received, ("rcp", Direction.SENT)]
        finally:
            node.stop()


def kinds_in(node: Node) -> list[tuple[str, Direction | None]]:
    """What the log holds by now, in order."""
    entries = [each for each in node.log().entries if isinstance(each, RecordEntry | StatementEntry)]
    return [("rec" if isinstance(each, RecordEntry) else each.kind.value, each.direction) for each in entries]
