"""Evidence read by lines: what is accepted is what the general reader reads, and everything else is left to it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_guide_scene import one_call
from audit_scene import several_chains
from hopseal.custody.encoding import encode_b64url, sha256
from hopseal.limits import MAX_INTEGER
from hopseal.log import bundle_lines as module
from hopseal.log.bundle import (
    EvidenceBundle,
    EvidenceError,
    LoggedStatement,
    Seen,
    format_evidence,
    merge_statements,
    parse_evidence,
)
from hopseal.log.bundle_lines import DepartsError, ProofLines, StatementLines, read_lines
from hopseal.log.entries import Direction

SCENE = several_chains()[0].witness()
FILE = format_evidence(SCENE.bundle())
SMALL = format_evidence(one_call().bundle())
FIRST_INDEX = re.compile(rb'"index":\d+')
KEY = "rec." + "A" * 43
PIECES = [b",", b",\n", b"\n", b"\n,", b'"', b"\\", b"\\n", b"\\u0041", b"]", b"[", b"}", b"{", b":", b"0", b"9" * 16]
PIECES += [
    b" ",
    b"-",
    b"\x00",
    b"\xff",
    b"\xc3\xa9",
    b'"proofs":{',
    b'\n"proofs":{\n',
    b'\n"statements":[\n',
    b'},\n"policy":"',
]
NO_INDEX = ["01", "-1", "-0", "1.0", "1e2", "9007199254740992", "9" * 30, "1" * 5_000, "true", '"1"']


def digested(head: bytes) -> bytes:
    return head + f'"digest":"{encode_b64url(sha256(head))}"}}\n'.encode()


def redigested(data: bytes) -> bytes:
    return digested(data[: data.rindex(b'"digest":')])


def replaced(old: bytes, new: bytes, data: bytes = FILE) -> bytes:
    assert old in data
    return redigested(data.replace(old, new, 1))


def whole(bundle: EvidenceBundle) -> EvidenceBundle:
    """All of it, as the general reader has it."""
    statements, proofs = bundle.statements, bundle.proofs
    assert isinstance(statements, StatementLines)
    assert isinstance(proofs, ProofLines)
    read = statements.read(range(len(statements)))
    proofs.check_rest()
    return replace(bundle, statements=tuple(read), proofs=dict(proofs))


def by_lines(data: bytes) -> EvidenceBundle:
    return whole(read_lines(data))


def general(data: bytes) -> EvidenceBundle:
    bundle = parse_evidence(data)
    return replace(bundle, statements=tuple(merge_statements(bundle.statements)), proofs=dict(bundle.proofs))


def departs(data: bytes) -> bool:
    """Whether a file is left to the general reader; fails unless both read the same if it is not."""
    try:
        read = by_lines(data)
    except DepartsError:
        return True
    assert read == general(data)
    return False


@pytest.mark.parametrize("data", [FILE, SMALL], ids=["chains", "one call"])
def test_a_file_as_it_is_written_is_read_by_lines(data: bytes) -> None:
    assert not departs(data)
    assert format_evidence(by_lines(data)) == data


def test_statements_are_a_sequence_and_proofs_a_mapping() -> None:
    bundle, read = read_lines(FILE), parse_evidence(FILE)
    assert list(bundle.statements) == list(bundle.statements[:]) == list(read.statements)
    assert bundle.statements[-1] == read.statements[-1]
    assert (len(bundle.statements), len(bundle.proofs)) == (len(read.statements), len(read.proofs))
    assert bundle.proofs.get("rec.none") is None
    assert bundle.proofs.get("rec.none", ()) == ()
    assert {key: bundle.proofs.get(key) for key in bundle.proofs} == read.proofs


def test_a_statement_in_more_logs_than_two_or_with_escapes_is_read_by_itself() -> None:
    seen = tuple(Seen(f'a "log" at {n}', n, Direction.SENT) for n in range(3))
    bundle = EvidenceBundle(
        (LoggedStatement("é.\t", seen), LoggedStatement("x", seen[:1])), proofs={"rec." + "A" * 43: ()}
    )
    assert not departs(format_evidence(bundle))


def test_a_statement_in_no_log_is_read() -> None:
    bundle = EvidenceBundle((LoggedStatement("a", ()), LoggedStatement("b", ())), proofs={KEY: ("x",)})
    assert not departs(format_evidence(bundle))


@pytest.mark.parametrize(
    "bundle",
    [
        EvidenceBundle(),
        EvidenceBundle((LoggedStatement("a", ()),)),
        EvidenceBundle(proofs={KEY: ("x",)}),
    ],
    ids=["nothing", "no proofs", "no statements"],
)
def test_a_file_without_either_is_left_to_the_general_reader(bundle: EvidenceBundle) -> None:
    assert departs(format_evidence(bundle))


def test_a_file_in_another_form_is_left_to_the_general_reader() -> None:
    members = json.loads(FILE)
    del members["digest"]
    assert departs(redigested(json.dumps(members).encode()[:-1] + b',"digest":'))


@pytest.mark.parametrize(
    "index", ["01", "-1", "-0", "1.0", "1e2", "9007199254740992", "9" * 30, "1" * 5_000, "true", '"1"']
)
def test_a_number_that_is_none_is_left_to_the_general_reader(index: str) -> None:
    assert departs(redigested(FIRST_INDEX.sub(f'"index":{index}'.encode(), FILE, count=1)))


def test_the_largest_number_is_read() -> None:
    last = FILE.rindex(b'"index":', 0, FILE.index(b'"certs":'))
    changed = FILE[:last] + FIRST_INDEX.sub(f'"index":{MAX_INTEGER}'.encode(), FILE[last:], count=1)
    assert by_lines(redigested(changed)).statements[-1].seen[-1].index == MAX_INTEGER


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"},\n{", b"}\n{"),
        (b"},\n{", b"} \n{"),
        (b"},\n{", b"},,\n{"),
        (b"},\n{", b"},\n,{"),
        (b"},\n{", b"},{"),
        (b"},\n{", b"},\n{},\n{"),
        (b'}],\n"certs"', b'},\n],\n"certs"'),
        (b'{"sealed":"', b'{"sealed":"\x01'),
        (b'{"sealed":"', b'{"sealed":"\xff'),
        (b'{"sealed":"', b'{"sealed":"\\ud800'),
        (b'{"sealed":"', b'{"sealed":"","sealed":"'),
        (b'"seen":[', b'"more":1,"seen":['),
        (b'"seen":[', b'"seen":[{},'),
        (b'"proofs":{\n"', b'"proofs":{\n\n"'),
        (b']\n,"', b']\n"'),
        (b']\n,"', b']\n,\n,"'),
        (b']\n,"', b'],"'),
        (b']\n,"', b'],"rec.x":[]\n,"'),
        (b']\n,"', b']\n,"rec.x":[]\n,"'),
        (b']\n,"', b']\n,"rec.' + b"A" * 43 + b'":{}\n,"'),
        (b']\n,"', b']\n,"rec.' + b"A" * 43 + b'":[1]\n,"'),
        (b']\n,"', b']\n,"rec.' + b"A" * 43 + b'":["\xff"]\n,"'),
        (b']\n,"', b']\n,"rec.' + b"A" * 43 + b'":["\x02"]\n,"'),
        (b']\n,"', b']\n,"rec.' + b"A" * 43 + b'":["\\ud800"]\n,"'),
        (b']\n,"', b']\n,"rec.' + b"A" * 43 + b'":' + b"[" * 100_000 + b'\n,"'),
        (b']\n,"', b']\n,"rec.' + b"A" * 43 + b'":[' + b",".join([b'"x"'] * 17) + b']\n,"'),
        (b']\n,"', b']\n,"\\u0072ec.' + b"A" * 43 + b'":[]\n,"'),
        (b']\n,"', b']\n,"rec.' + b"A" * 43 + b'":[]\n,"rec.' + b"A" * 43 + b'":[]\n,"'),
        (b']},\n"policy"', b'],},\n"policy"'),
        (b']},\n"policy"', b']}},\n"policy"'),
        (b'"policy":', b'"statements":[],"policy":'),
        (b'"policy":', b'"proofs":{},"policy":'),
        (b'{"v":1,', b'{"v":2,'),
        (b"\x22certs\x22:[\n", b"\x22certs\x22:[\n5,"),
        (b'"artifacts":[\n{', b'"artifacts":[\n{\n"proofs":{\n},\n"policy":'),
        (b',\n"statements":[\n', b',"x":{\n"statements":[\n'),
    ],
)
def test_a_file_with_a_wrong_line_is_left_to_the_general_reader(old: bytes, new: bytes) -> None:
    assert departs(replaced(old, new))


def test_statements_out_of_order_or_twice_are_left_to_the_general_reader() -> None:
    lines = FILE.split(b"\n")
    first, second = lines[2], lines[3]
    swapped = b"\n".join([*lines[:2], second, first, *lines[4:]])
    twice = b"\n".join([*lines[:3], first, *lines[3:]])
    elsewhere = b"\n".join([*lines[:3], FIRST_INDEX.sub(b'"index":1000', first), *lines[3:]])
    places = first.replace(b"custody.prod.example.org/left", b"custody.prod.example.org/right", 1)
    reordered = b"\n".join([*lines[:2], places, *lines[3:]])
    same = FIRST_INDEX.sub(b'"index":1', first.replace(b'"received"', b'"sent"'))
    repeated = b"\n".join([*lines[:2], same, *lines[3:]])
    changed = (swapped, twice, elsewhere, reordered, repeated)
    assert [departs(redigested(each)) for each in changed] == [True] * len(changed)


def test_a_damaged_or_truncated_file_is_refused_before_anything_is_read() -> None:
    with pytest.raises(EvidenceError, match="not as it was written"):
        read_lines(FILE.replace(b'"dir":"sent"', b'"dir":"gone"', 1))
    for length in range(0, len(SMALL), 61):
        with pytest.raises(EvidenceError, match="cut off"):
            read_lines(SMALL[:length])
        assert departs(digested(SMALL[:length]))


@pytest.mark.parametrize("bound", ["MAX_STATEMENTS", "MAX_ARTIFACTS"])
def test_more_lines_than_allowed_are_left_to_the_general_reader(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    bundle = read_lines(FILE)
    exact = {"MAX_STATEMENTS": len(bundle.statements), "MAX_ARTIFACTS": len(bundle.proofs) - len(bundle.statements)}
    for name, value in exact.items():
        monkeypatch.setattr(module, name, value)
    assert not departs(FILE)
    monkeypatch.setattr(module, bound, exact[bound] - 1)
    monkeypatch.setattr(module, "MAX_ARTIFACTS", exact["MAX_ARTIFACTS"] - 1)
    assert departs(FILE)


@pytest.mark.parametrize(
    ("member", "texts"),
    [
        (b'["one"]', [b"one"]),
        (b'["one","two\\n"]', [b"one", b"two\\n"]),
        (b'[""]', [b""]),
        (b"[]", []),
        (b'["]', []),
        (b'["one" ]', []),
        (b'["one", "two"]', []),
        (b'["o\\"ne"]', []),
        (b'["one"],"more":["two"]', []),
        (b"[" + b",".join([b'"x"'] * 17) + b"]", []),
        (b'["' + b"x" * (1 << 16) + b'"]', [b"x" * (1 << 16)]),
        (b'["' + b"x" * ((1 << 16) + 1) + b'"]', []),
        (b"5", []),
    ],
)
def test_the_texts_of_a_proof_stand_in_the_one_form_of_them(member: bytes, texts: list[bytes]) -> None:
    key = "rec." + "A" * 43
    data = f'"{key}":'.encode() + member
    proofs = ProofLines(data, {key: (0, len(data))})
    assert proofs.texts(key) == texts
    assert proofs.texts("another") == []


def test_a_proof_that_another_process_read_is_not_read_again() -> None:
    key, other = "rec." + "A" * 43, "rec." + "B" * 43
    data = b'"wrong"'
    proofs = ProofLines(data, {key: (0, len(data)), other: (0, len(data))})
    proofs.note_read({key})
    with pytest.raises(DepartsError):
        proofs.check_rest()
    proofs.note_read({other})
    proofs.check_rest()
    assert proofs.take_read() == {key, other}
    with pytest.raises(DepartsError):
        proofs.check_rest()


Edit = tuple[float, int, bytes]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.sampled_from(PIECES)), min_size=1, max_size=3))
def test_whatever_is_changed_both_readers_read_the_same_or_the_general_one_decides(edits: list[Edit]) -> None:
    data = bytearray(SMALL[: SMALL.rindex(b'"digest":')])
    for share, cut, piece in edits:
        at = int(share * len(data))
        data[at : at + cut] = piece
    departs(digested(bytes(data)))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.integers(-3, 3), st.integers(0, 3), st.sampled_from(PIECES))
def test_changes_between_lines_are_read_the_same_or_left_to_the_general_reader(
    number: int, by: int, cut: int, piece: bytes
) -> None:
    head = FILE[: FILE.rindex(b'"digest":')]
    breaks = [found.start() for found in re.finditer(rb"\n", head)]
    at = breaks[number % len(breaks)] + by
    departs(digested(head[:at] + piece + head[at + cut :]))
