"""Laws of statements that are no records: what is written is read, and nothing but our own error leaves the readers."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custody_answers import answer, unbase64
from custody_mutations import Json, changed_bytes, changed_exchanges, changed_text, load_requests
from custody_strategies import hashes, statements
from hopseal.custody.errors import Code, CustodyError
from hopseal.custody.event_stream import EventStreamScanner, format_event_comment, split_event_stream
from hopseal.custody.kids import kids_of, kids_to_json, parse_kids
from hopseal.custody.merkle import build_root, build_tree, hash_leaf
from hopseal.custody.statement import TYPES, encode_statement, parse_sealed_statement, parse_statement, type_of
from hopseal.limits import MAX_KIDS_LISTED
from vectors.scene import b64, dumps

EXCHANGES = load_requests("receipt_verify") + load_requests("closing_verify")
ACCEPTED = [request for request in EXCHANGES if answer(request)["result"] == "ok"]
CODES = {code.value for code in Code}
PAYLOADS = [unbase64(each["input"]["payload"]) for each in load_requests("statement")]
tokens = st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True)


@given(statements, st.randoms(use_true_random=False))
def test_a_statement_is_written_as_it_was_read_whatever_the_order(claims: Json, shuffle: random.Random) -> None:
    names = list(claims)
    shuffle.shuffle(names)
    parsed = parse_statement(dumps({name: claims[name] for name in names}))
    assert encode_statement(parsed) == dumps(claims)
    assert parse_statement(encode_statement(parsed)) == parsed
    assert type_of(parsed) == claims["t"]


def read(payload: bytes, types: set[str]) -> Json:
    return answer({"kind": "statement", "input": {"payload": b64(payload), "types": sorted(types)}})


@given(statements, st.sets(st.sampled_from(TYPES)))
def test_a_statement_is_read_only_where_its_type_may_stand(claims: Json, types: set[str]) -> None:
    outcome = read(dumps(claims), types)
    assert (outcome["result"] == "ok") == (claims["t"] in types)
    assert outcome["result"] == "ok" or outcome["code"] == Code.MALFORMED


@settings(max_examples=600)
@given(st.sampled_from(PAYLOADS).flatmap(changed_bytes), st.sets(st.sampled_from(TYPES), min_size=1))
def test_no_changed_claims_make_the_reader_raise_anything_else(payload: bytes, types: set[str]) -> None:
    outcome = read(payload, types)
    if outcome["result"] == "error":
        assert outcome["code"] == Code.MALFORMED
    else:
        assert outcome["t"] in types
        assert read(unbase64(outcome["encoded"]), types) == outcome


@given(st.text(alphabet="Aw.-_ =", max_size=40) | st.text(max_size=20))
def test_no_text_makes_the_reader_of_sealed_statements_raise_anything_else(text: str) -> None:
    with pytest.raises(CustodyError):
        parse_sealed_statement(text)


@settings(max_examples=600)
@given(changed_exchanges(EXCHANGES))
def test_a_changed_exchange_gets_an_answer_and_nothing_else(request: Json) -> None:
    outcome = answer(request)
    assert outcome["result"] == "ok" or outcome["code"] in CODES
    assert outcome["result"] == "ok" or bool(outcome["missing"]) == (outcome["code"] == Code.UNRESOLVED)


def sealed_place(given_input: Json) -> tuple[str, int] | None:
    """Which line of which list holds the receipt or closing statement."""
    places = [(name, index) for name in ("headers", "trailers") for index in range(len(given_input.get(name, [])))]
    wanted = ("custody-receipt", "custody-close")
    return next(((name, index) for name, index in places if given_input[name][index][0].lower() in wanted), None)


@settings(max_examples=400)
@given(st.sampled_from([each for each in ACCEPTED if sealed_place(each["input"])]), st.data())
def test_no_changed_character_of_a_receipt_or_closing_statement_passes(request: Json, data: st.DataObject) -> None:
    place = sealed_place(request["input"])
    assert place is not None
    lines = [list(line) for line in request["input"][place[0]]]
    line = lines[place[1]]
    old = line[1]
    line[1] = data.draw(changed_text(old).filter(lambda new: new.split() != old.split()))
    assert answer({"kind": request["kind"], "input": request["input"] | {place[0]: lines}})["result"] == "error"


@given(st.lists(hashes, max_size=40))
def test_each_list_of_receipts_has_one_claim_and_that_is_read_back(listed: list[str]) -> None:
    kids = kids_of(listed)
    assert parse_kids(kids_to_json(kids), "kids") == kids
    assert isinstance(kids, tuple) == (len(listed) <= MAX_KIDS_LISTED)


@given(st.integers(1, 256))
def test_the_root_without_paths_is_that_of_the_tree(size: int) -> None:
    leaves = [hash_leaf(bytes([index])) for index in range(size)]
    assert build_root(leaves) == build_tree(leaves)[0]


def split_whole(body: bytes) -> tuple[bytes, str | None]:
    """The definition, by a pattern over the whole body."""
    match = re.fullmatch(rb"(|.*\n): custody-receipt ([A-Za-z0-9._-]{1,4096})\n\n", body, re.DOTALL)
    return (match[1], match[2].decode()) if match else (body, None)


@given(st.binary(max_size=40) | st.text(alphabet=": custody-receipt\n.a", max_size=60).map(str.encode), tokens)
def test_a_comment_put_at_the_end_of_a_stream_is_taken_off_again(body: bytes, token: str) -> None:
    stream = body + b"\n" + format_event_comment(token)
    assert split_event_stream(stream) == (body + b"\n", token)
    assert split_event_stream(format_event_comment(token)) == (b"", token)


@given(st.binary(max_size=60) | st.text(alphabet=": custody-receipt\n.a", max_size=60).map(str.encode))
def test_what_is_taken_off_a_stream_is_a_comment_and_nothing_else(body: bytes) -> None:
    left, comment = split_event_stream(body)
    assert body == left + (format_event_comment(comment) if comment is not None else b"")


@given(
    st.text(alphabet=": custody-receipt\n.a", max_size=60).map(str.encode)
    | st.lists(st.sampled_from([b": custody-receipt ", b"a.b", b"\n", b"\n\n", b"data: x", b":"]), max_size=8).map(
        b"".join
    ),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_a_stream_in_parts_ends_as_the_whole(body: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    scanner = EventStreamScanner()
    certain = b"".join(scanner.push(body[start:end]) for start, end in itertools.pairwise(places))
    rest, comment = scanner.finish()
    assert (certain + rest, comment) == split_event_stream(body) == split_whole(body)


def test_the_payloads_that_are_changed_hold_every_type() -> None:
    outcomes = [answer(each) for each in load_requests("statement")]
    assert {outcome["t"] for outcome in outcomes if outcome["result"] == "ok"} == set(TYPES)
