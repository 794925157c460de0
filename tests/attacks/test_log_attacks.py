"""What somebody does to the log of running brokers, and what hostile text does in it: threats §5 "audit"."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from custody_refusals import Guarded, guarding, refused_in, statements_in
from dataplane_nodes import TRUST_DOMAIN, Component, Node, call, pair, spiffe_id
from dataplane_peer import Message, fresh_id, send
from faketime import shifted
from hopseal.cli.main import cli
from hopseal.log.entries import RecordEntry
from hopseal.log.reader import read_log
from hopseal.svid import X509Svid
from killed_node import NodeProcess
from svid_authority import Authority
from waiting import wait_until

pytestmark = pytest.mark.process

HOSTILE = '\n{"n":0,"type":"rec","verdict":"accepted"}\r\n\x1b[2J\x1b]0;owned\x07\u2028\u202e\x00'


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """What sender and receiver logged of one call."""
    with pair(tmp_path_factory.mktemp("pair")) as (a, b, _tool):
        assert call(a).status == 200
        nodes = (a, b)
    sent, received = ((node.log_dir / "custody.log").read_bytes() for node in nodes)
    return sent, received


def show(folder: Path, *journals: bytes) -> Result:
    """``hopseal chain show`` over logs with these bytes."""
    logs: list[str] = []
    for number, journal in enumerate(journals):
        (folder / str(number)).mkdir(exist_ok=True)
        (folder / str(number) / "custody.log").write_bytes(journal)
        logs += ["--log", str(folder / str(number))]
    return CliRunner().invoke(cli, ["chain", "show", "--last", "--json", *logs], catch_exceptions=False)


def test_the_logs_of_two_brokers_verify_while_nobody_touches_them(
    journals: tuple[bytes, bytes], tmp_path: Path
) -> None:
    shown = show(tmp_path, *journals)
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)[0]["verified"] is True


@pytest.mark.parametrize("bit", [0, 5])
@pytest.mark.parametrize("side", [0, 1], ids=["sender", "receiver"])
def test_a_flipped_bit_of_any_byte_of_a_brokers_log_is_found(
    journals: tuple[bytes, bytes], side: int, bit: int
) -> None:
    journal = journals[side]
    whole = read_log(journal)
    assert not whole.damage
    assert whole.torn_bytes == 0
    for position in range(len(journal)):
        flipped = bytearray(journal)
        flipped[position] ^= 1 << bit
        found = read_log(bytes(flipped))
        assert found.damage or found.torn_bytes, position
        assert set(found.entries) < set(whole.entries), position


def test_the_command_says_that_a_flipped_log_is_damaged(journals: tuple[bytes, bytes], tmp_path: Path) -> None:
    lines = journals[1].splitlines(keepends=True)
    start = 0
    for line in lines[:-1]:
        flipped = bytearray(journals[1])
        flipped[start + len(line) // 2] ^= 1
        shown = show(tmp_path, journals[0], bytes(flipped))
        assert shown.exit_code == 1
        start += len(line)


@pytest.mark.parametrize("side", [0, 1], ids=["sender", "receiver"])
def test_a_log_cut_anywhere_says_so_or_lacks_whole_entries_at_its_end(journals: tuple[bytes, bytes], side: int) -> None:
    """Whole entries that are gone from the end are what checkpoints, the other side's log and witnesses are for."""
    journal = journals[side]
    whole = read_log(journal).entries
    for length in range(0, len(journal), 7):
        found = read_log(journal[:length])
        assert not found.damage
        assert found.entries == whole[: len(found.entries)]
        assert found.torn_bytes == length - (journal.rfind(b"\n", 0, length) + 1)
        assert len(found.entries) < len(whole)


def test_a_call_that_one_side_struck_from_its_log_is_still_in_the_others(
    journals: tuple[bytes, bytes], tmp_path: Path
) -> None:
    """Logging on both sides: one operator alone cannot make a call not have been."""
    sent, received = journals
    struck = b"".join(line for line in sent.splitlines(keepends=True) if b'"type":"rec"' not in line)
    assert struck != sent
    shown = show(tmp_path, struck, received)
    assert shown.exit_code == 1
    (chain,) = json.loads(shown.stdout)
    assert chain["damage"]
    assert [(each["node"], each["direction"]) for each in chain["hops"][0]["seen"]] == [("b", "received")]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with guarding(tmp_path) as made:
        yield made


def lines_are_entries(node: Node) -> None:
    """No text in the log began a line or moves a terminal."""
    journal = (node.log_dir / "custody.log").read_bytes().rstrip(b"\0")
    contents = read_log(journal)
    assert not contents.damage
    assert contents.torn_bytes == 0
    assert journal.count(b"\n") == len(contents.entries)
    assert not [byte for byte in journal if byte < 0x20 and byte != 0x0A]


def test_hostile_text_in_a_refused_record_stays_in_its_entry(guarded: Guarded) -> None:
    svid = guarded.node.authority.issue(spiffe_id("orchestrator"))
    message = Message(svid)
    assert message.record is not None
    message.record = replace(message.record, op=HOSTILE)
    entry = guarded.refuses(svid, message.wire().replace(b"\r\n\r\n{}", b"\r\n\r\n[]"), "custody_binding")
    assert entry.sealed is not None
    lines_are_entries(guarded.node)


def test_hostile_text_of_a_component_stays_in_its_entries_and_events(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, tool):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": HOSTILE}}).encode()
        headers = {"Content-Type": "application/json", "Mcp-Name": "x"}
        call(a, path="/mcp?q=%0A%1B%5B2J", body=body, headers=headers)
        assert call(a).status == 200
        assert tool.seen
        for node in (a, b):
            lines_are_entries(node)
            assert statements_in(node.log_dir)


def test_the_command_prints_no_hostile_text_of_a_running_brokers_log(guarded: Guarded) -> None:
    svid = guarded.node.authority.issue(spiffe_id("orchestrator"))
    message = Message(svid)
    assert message.record is not None
    message.record = replace(message.record, op=HOSTILE)
    guarded.accepts(svid, message.wire())
    (entry,) = [each for each in statements_in(guarded.node.log_dir) if isinstance(each, RecordEntry)]
    assert entry.accepted
    for form in ([], ["--json"]):
        command = ["chain", "show", "--last", "--log", str(guarded.node.log_dir), *form]
        shown = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert "owned" in shown.output
        assert all(line.isprintable() for line in shown.output.split("\n"))
        if form:
            assert json.loads(shown.stdout)[0]["hops"][0]["operation"] == HOSTILE


def test_a_clock_that_goes_back_lets_no_replay_in_and_leaves_the_log_whole(tmp_path: Path) -> None:
    """The log's times go back with the clock; its numbers go on, and what it accepted stays accepted once."""
    path, authority = tmp_path / "tool.sock", Authority(TRUST_DOMAIN)
    svid = authority.issue(spiffe_id("orchestrator"))
    with Component(path) as tool:
        node = NodeProcess(tmp_path / "k", authority, path)
        node.environment = shifted(8)
        port, message = node.start(), Message(svid)
        data, ahead = message.wire(), message.changed(jti=fresh_id(), iat=_now() + 15, exp=_now() + 45).wire()
        assert [answer and answer.status for answer in (send(port, svid, data), send(port, svid, ahead))] == [200, 200]
        node.kill()
        node.environment = shifted(-8)
        port = node.start()
        with refused_in(node.log_file.parent, "custody_replayed", "custody_expired"):
            answers = [send(port, svid, each) for each in (data, ahead)]
        assert [answer and answer.code for answer in answers] == ["custody_replayed", "custody_expired"]
        node.kill()
        assert len(tool.seen) == 2
    entries = node.log().entries
    assert [each.n for each in entries] == list(range(len(entries)))
    assert entries[-1].at_ms < entries[0].at_ms


def test_a_broker_that_may_not_write_more_takes_no_calls_and_goes_on_once_it_may(tmp_path: Path) -> None:
    """A quota is an error of a write as a full disk is; here it is the limit of the process, which root has too."""
    path, authority = tmp_path / "tool.sock", Authority(TRUST_DOMAIN)
    svid = authority.issue(spiffe_id("orchestrator"))
    with Component(path) as tool:
        node = NodeProcess(tmp_path / "k", authority, path)
        port = node.start()
        assert _status(port, svid) == 200
        whole = len(node.log_file.read_bytes().rstrip(b"\0"))
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (whole + 100, resource.RLIM_INFINITY))
        answers = [send(port, svid, Message(svid).wire()) for _ in range(3)]
        assert [answer and answer.code for answer in answers] == ["custody_unavailable"] * 3
        assert len(tool.seen) == 1
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_until(lambda: _status(port, svid) == 200)
        node.kill()
    contents = node.log()
    assert not contents.damage
    records = [each for each in contents.entries if isinstance(each, RecordEntry)]
    assert len([each for each in records if each.accepted]) >= len(tool.seen)


def _status(port: int, svid: X509Svid) -> int | None:
    answer = send(port, svid, Message(svid).wire())
    return answer and answer.status


def _now() -> int:
    return int(time.time())
