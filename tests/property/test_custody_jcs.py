"""The canonical form of JSON in both languages: alike for every value, and stable under any spelling of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from custody_answers import answer
from custody_codecs import rust_answer
from hopseal.custody.jcs import canonical_hash, canonicalize
from vectors.scene import b64

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
doubles = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**53) + 1, 2**53 - 1)
values = st.recursive(
    st.none() | st.booleans() | integers | doubles | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def both(data: bytes) -> Any:
    """What the two codecs say, which must be the same."""
    request = {"kind": "jcs", "input": {"json": b64(data)}}
    said = answer(request)
    assert rust_answer(request) == said, data
    return said


@given(doubles)
@example(1424953923781206.25)
@example(5e-324)
@example(2.0**-1074 * 3)
@example(123456789012345680000.0)
def test_a_double_is_printed_alike_and_reads_back_as_itself(value: float) -> None:
    both(repr(value).encode())
    assert float(canonicalize(repr(value).encode())) == value


@given(values)
def test_a_value_has_one_form_however_it_is_written(value: object) -> None:
    plain = json.dumps(value, ensure_ascii=False).encode()
    assert both(plain)["result"] == "ok"
    for other in (json.dumps(value, indent=3), json.dumps(value, sort_keys=True), json.dumps(value, ensure_ascii=True)):
        assert canonicalize(other.encode()) == canonicalize(plain)
    form = canonicalize(plain)
    assert canonicalize(form) == form
    assert json.loads(form, parse_int=float) == json.loads(plain, parse_int=float)


@given(values, values)
def test_two_values_have_one_hash_only_if_they_are_equal(one: object, other: object) -> None:
    first, second = (json.dumps(each).encode() for each in (one, other))
    assert (canonical_hash(first) == canonical_hash(second)) == (canonicalize(first) == canonicalize(second))


@given(values, st.integers(0, 200), st.binary(min_size=0, max_size=2))
def test_what_is_nearly_json_gets_one_answer(value: object, at: int, bytes_: bytes) -> None:
    text = json.dumps(value).encode()
    both(text[: at % (len(text) + 1)] + bytes_ + text[(at + 1) % (len(text) + 1) :])


@given(st.text(alphabet='{}[]",:0123456789.eE+-\\utrfalsn ', max_size=24))
def test_any_text_of_jsons_characters_gets_one_answer(text: str) -> None:
    both(text.encode())
