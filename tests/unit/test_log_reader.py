"""Reading the custody log: lines, damage, torn tails, finding chains."""

from __future__ import annotations

import json
from typing import Any

import pytest

from custody_calls import Node, begin, go_on
from custody_logs import LogFile, b64
from hopseal.custody.seal import thumbprint
from hopseal.log.entries import (
    BundleEntry,
    CertificateEntry,
    Direction,
    LogError,
    RecordEntry,
    StartEntry,
    StatementEntry,
    StatementKind,
    format_line,
    parse_line,
)
from hopseal.log.reader import Damage, LogContents, find_chains, read_files, read_log

CERT = {"n": 1, "at_ms": 2, "type": "cert", "x5t": thumbprint(b"der"), "der": b64(b"der")}
REC = {"n": 1, "at_ms": 2, "type": "rec", "dir": "received", "verdict": "refused", "code": "custody_malformed"}


def line(document: object) -> bytes:
    return format_line(json.dumps(document).encode())[:-1]


def test_every_kind_of_entry_is_read() -> None:
    log = LogFile("node-1")
    accepted = begin("orchestrator", Node("reasoner"))
    log.received(accepted)
    entries = log.entries()
    assert [type(each) for each in entries] == [StartEntry, BundleEntry, *[CertificateEntry] * 4, RecordEntry]
    record = entries[-1]
    assert isinstance(record, RecordEntry)
    assert (record.direction, record.accepted, record.sealed) == (Direction.RECEIVED, True, accepted.newest.text)
    assert read_log(log.bytes()).node == "node-1"


@pytest.mark.parametrize("kind", StatementKind)
def test_statements_about_a_record_are_read(kind: StatementKind) -> None:
    claims = {"iss": "spiffe://a/b", "aud": "spiffe://a/c", "cid": "c", "rec": "r", "st": 200}
    entry = parse_line(line(REC | {"type": kind, "verdict": "accepted", "code": None, "sealed": "s"} | claims))
    assert isinstance(entry, StatementEntry)
    assert (entry.kind, entry.direction, entry.accepted, entry.sealed) == (kind, Direction.RECEIVED, True, "s")
    assert (entry.iss, entry.aud, entry.cid, entry.rec, entry.st) == tuple(claims.values())


def test_an_answer_without_receipt_is_an_entry_without_a_statement() -> None:
    entry = parse_line(line(REC | {"type": "rcp", "code": "receipt_missing", "sealed": None, "rec": "r"}))
    assert isinstance(entry, StatementEntry)
    assert (entry.accepted, entry.code, entry.sealed, entry.st) == (False, "receipt_missing", None, None)


def test_a_refused_message_without_a_readable_record_has_null_claims() -> None:
    entry = parse_line(line(REC | {"detail": None, "sealed": None, "iss": None, "exp": None, "ancestors": []}))
    assert isinstance(entry, RecordEntry)
    assert (entry.accepted, entry.code, entry.sealed, entry.iss, entry.exp) == (
        False,
        "custody_malformed",
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"type": "other"},
        {"type": None},
        {"n": -1},
        {"at_ms": "1"},
        {"der": "!"},
        {"x5t": "short"},
        {"x5t": thumbprint(b"another")},
    ],
)
def test_a_line_with_a_right_checksum_can_still_be_no_entry(change: dict[str, Any]) -> None:
    assert parse_line(line(CERT))
    with pytest.raises(LogError):
        parse_line(line(CERT | change))


@pytest.mark.parametrize("change", [{"dir": "up"}, {"verdict": "maybe"}, {"exp": "1"}, {"iss": 1}, {"ancestors": "x"}])
def test_a_record_entry_is_typed(change: dict[str, Any]) -> None:
    with pytest.raises(LogError):
        parse_line(line(REC | change))


@pytest.mark.parametrize("change", [{"dir": "sideways"}, {"verdict": "perhaps"}, {"st": "200"}, {"rec": 1}])
def test_a_statement_entry_is_typed(change: dict[str, Any]) -> None:
    with pytest.raises(LogError):
        parse_line(line(REC | {"type": "rcp"} | change))


def test_a_bundle_of_a_wrong_trust_domain_is_no_entry() -> None:
    bundle = {"n": 1, "at_ms": 2, "type": "bundle", "td": "prod.example.org", "sequence": 1, "x509": []}
    assert parse_line(line(bundle))
    with pytest.raises(LogError):
        parse_line(line(bundle | {"td": "PROD"}))


def test_an_empty_log_is_whole() -> None:
    contents = read_log(b"")
    assert (contents.entries, contents.damage, contents.torn_bytes, contents.node) == ((), (), 0, "")


def test_any_cut_loses_only_what_it_cuts() -> None:
    data = LogFile("node-1").bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for length in range(len(data)):
        contents = read_log(data[:length])
        assert len(contents.entries) == sum(end <= length for end in ends)
        assert not contents.damage
        assert contents.torn_bytes == length - max((end for end in ends if end <= length), default=0)


def test_space_that_is_written_ahead_is_neither_damage_nor_torn() -> None:
    data = LogFile("node-1").bytes()
    contents = read_log(data + bytes(4096))
    assert (contents.entries, contents.damage, contents.torn_bytes) == (read_log(data).entries, (), 0)
    torn = read_log(data[:-1] + bytes(4096))
    assert (len(torn.entries), torn.damage, torn.torn_bytes > 0) == (len(contents.entries) - 1, (), True)


def test_a_bit_flip_at_any_byte_is_found() -> None:
    log = LogFile("node-1")
    log.lines = log.lines[:3]
    data = log.bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        contents = read_log(bytes(flipped))
        assert contents.damage or contents.torn_bytes, position
        assert len(contents.entries) < 3


def test_a_line_taken_out_is_found_by_its_number() -> None:
    log = LogFile("node-1")
    del log.lines[2]
    contents = read_log(log.bytes())
    assert [each.message for each in contents.damage] == ["entry 3 follows entry 1"]
    assert contents.damage[0].offset == len(log.lines[0] + log.lines[1])


def test_damage_in_the_middle_keeps_the_rest() -> None:
    log = LogFile("node-1")
    log.lines[2] = b"\r" + log.lines[2]
    contents = read_log(log.bytes())
    assert len(contents.entries) == len(log.lines) - 1
    assert [each.message for each in contents.damage] == [
        "the checksum of a line does not fit",
        "entry 3 follows entry 1",
    ]
    assert contents.torn_bytes == 0


def test_chains_are_found_by_chain_statement_and_task() -> None:
    reasoner = Node("reasoner")
    log = LogFile("node-1")
    first, second = begin("orchestrator", reasoner), begin("shell", reasoner)
    connector = Node("crm-connector")
    third = go_on(first, reasoner, connector)
    for accepted in (first, second, third):
        log.received(accepted)
    log.received(begin("shell", reasoner), verdict="refused", code="custody_replayed")
    log.received(second, ancestors=["not sealed"])
    entries = log.entries()
    one, two = (accepted.newest.record.cid for accepted in (first, second))
    assert find_chains(entries) == (one, two)
    assert find_chains(entries, cid=two) == (two,)
    assert find_chains(entries, jti=third.newest.record.jti) == (one,)
    assert find_chains(entries, task="task-1") == (one, two)
    assert find_chains(entries, task="another") == ()
    assert find_chains(entries, cid=one, jti=second.newest.record.jti) == ()


def test_a_record_entry_without_a_record_belongs_to_no_task() -> None:
    log = LogFile("node-1")
    log.received(begin("orchestrator", Node("reasoner")), sealed=None, ancestors=[])
    assert find_chains(log.entries(), task="task-1") == ()


def test_files_of_one_log_are_numbered_through_and_only_the_last_may_be_torn() -> None:
    lines = LogFile("a").lines
    names = ["first", "second"]

    def read(*parts: bytes) -> LogContents:
        return read_files(list(zip(names, parts, strict=True)))

    whole = read(b"".join(lines[:3]), b"".join(lines[3:]))
    assert (whole.entries, whole.damage, whole.torn_bytes) == (read_log(b"".join(lines)).entries, (), 0)
    torn = read(b"".join(lines[:3]) + b"xx", b"".join(lines[3:]) + b"yyy")
    assert torn.damage == (Damage(len(b"".join(lines[:3])), "the line has no end", "first"),)
    assert torn.torn_bytes == 3
    gap = read(b"".join(lines[:3]), b"".join(lines[4:]))
    assert gap.damage == (Damage(0, "entry 4 follows entry 2", "second"),)
    assert read(b"junk\n", b"").damage[0].file == "first"
    assert read_files([]).entries == ()
