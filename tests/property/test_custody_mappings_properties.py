"""Laws of the mappings: one canonical form, and nothing but our own error or None for what others write."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hopseal.custody.errors import Code, CustodyError
from hopseal.custody.mappings.forwarded_peer import Form, ForwardedPeer, read_forwarded_peer
from hopseal.custody.mappings.jcs import canonicalise, parse_message
from hopseal.custody.mappings.mcp_stdio import META_KEY, attach, bind_request_message, detach, open_request
from hopseal.custody.mappings.trace_context import parse_traceparent
from hopseal.limits import MAX_INTEGER
from vectors import pki
from vectors.scene import b64u

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6)
scalars = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=10
)
messages = st.dictionaries(texts, values, max_size=5)


def shuffled(value: Any, order: random.Random) -> Any:
    """The same value with the members of every object in another order."""
    if isinstance(value, dict):
        names = list(value)
        order.shuffle(names)
        return {name: shuffled(value[name], order) for name in names}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@given(messages, st.randoms(use_true_random=False), st.booleans(), st.sampled_from([None, 2]))
def test_a_message_has_the_same_form_however_it_is_written(
    message: dict[str, object], order: random.Random, escaped: bool, indent: int | None
) -> None:
    form = canonicalise(message)
    written = json.dumps(shuffled(message, order), ensure_ascii=escaped, indent=indent).encode()
    assert canonicalise(parse_message(written)) == form
    assert parse_message(form) == message


@given(messages)
def test_the_names_of_every_object_are_in_the_order_of_utf16(message: dict[str, object]) -> None:
    names = list(parse_message(canonicalise(message)))
    assert names == sorted(names, key=lambda name: [*memoryview(name.encode("utf-16-be"))])


@given(messages, st.dictionaries(st.sampled_from(["record", "chain", "certs"]), texts))
def test_custody_that_was_attached_is_detached_again(params: dict[str, object], custody: dict[str, str]) -> None:
    params = {name: value for name, value in params.items() if name != "_meta"}
    opened = open_request({"method": "tools/call", "params": params})
    fields = [(f"Custody-{name.title()}", value) for name, value in custody.items()]
    carried = detach(attach(opened, fields))
    assert (carried.message, carried.fields) == (opened, tuple(fields))
    assert bind_request_message(carried.message) == bind_request_message(opened)


@given(st.dictionaries(st.sampled_from(["method", "params", "result", "_meta", META_KEY]), values))
def test_no_message_makes_the_reader_raise_anything_else(message: dict[str, object]) -> None:
    try:
        carried = detach(message)
    except CustodyError as error:
        outcome = error.code
    else:
        outcome = None
        assert META_KEY not in str(carried.message.get("params", {}))
    assert outcome in {None, Code.MALFORMED, Code.MISSING}


@given(st.text(alphabet='Hash=By;,"\\ 0af', max_size=40) | st.text(max_size=20))
def test_no_forwarded_field_makes_the_reader_raise_anything_else(value: str) -> None:
    try:
        peer = read_forwarded_peer([(Form.XFCC, value)], "proxy", {"proxy": Form.XFCC})
    except CustodyError as error:
        outcome = error.code
    else:
        outcome = None
        assert isinstance(peer, ForwardedPeer)
    assert outcome in {None, Code.MALFORMED, Code.IDENTITY}


@given(st.text(alphabet='ab=;,"\\', max_size=12))
def test_a_subject_cannot_write_a_second_hash(subject: str) -> None:
    quoted = subject.replace("\\", "\\\\").replace('"', '\\"')
    value = f'Hash={pki.REASONER.x5t_raw.hex()};Subject="{quoted};Hash={"0" * 64}"'
    peer = read_forwarded_peer([(Form.XFCC, value)], "proxy", {"proxy": Form.XFCC})
    assert peer == ForwardedPeer(b64u(pki.REASONER.x5t_raw))


@given(st.text(alphabet="0123456789abcdef-fF", max_size=60))
def test_what_is_taken_from_a_traceparent_is_a_trace_id(value: str) -> None:
    found = parse_traceparent(value)
    assert found is None or (len(found) == 32 and found in value and found.strip("0"))
