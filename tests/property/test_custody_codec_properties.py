"""Laws of the custody codec: encodings, trees, folding, and that nothing but our own error leaves it."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from custody_answers import answer
from hopseal.custody.authority import Authority, Narrowing, fold
from hopseal.custody.encoding import decode_b64url, decode_base64, encode_b64url, encode_json, parse_json_object
from hopseal.custody.errors import CustodyError
from hopseal.custody.merkle import build_tree, compute_root, hash_leaf
from hopseal.custody.patterns import id_covers, id_matches, operation_covers, operation_matches
from hopseal.custody.record import parse_record
from hopseal.custody.seal import parse_sealed
from hopseal.limits import MAX_INTEGER
from vectors.scene import b64, tree_path, tree_root

integers = st.integers(-MAX_INTEGER, MAX_INTEGER)
scalars = st.none() | st.booleans() | integers | st.text(max_size=8)
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(st.binary(max_size=80))
def test_base64url_has_one_text_for_each_value(data: bytes) -> None:
    assert decode_b64url(encode_b64url(data)) == data


@given(
    st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=24)
    | st.from_regex(r"[A-Za-z0-9_\-]{0,24}", fullmatch=True)
)
def test_what_decodes_is_what_encodes(text: str) -> None:
    try:
        data = decode_b64url(text)
    except CustodyError:
        return
    assert encode_b64url(data) == text


@given(
    st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=24)
    | st.from_regex(r"[A-Za-z0-9+/]{0,12}={0,3}", fullmatch=True)
)
def test_padded_base64_is_decoded_or_refused(text: str) -> None:
    try:
        data = decode_base64(text)
    except CustodyError:
        return
    assert b64(data) == text


@given(st.dictionaries(st.text(max_size=4), nested, max_size=4))
def test_an_object_within_the_limits_is_read_as_written(document: dict[str, object]) -> None:
    if depth(document) > 4:
        with pytest.raises(CustodyError):
            parse_json_object(encode_json(document))
    else:
        assert parse_json_object(encode_json(document)) == document
        assert parse_json_object(json.dumps(document).encode()) == document


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0dD8c1e.-+ntfax \n', max_size=60).map(str.encode))
@example(b'{"a":"\\udfff"}')
def test_no_bytes_make_the_json_reader_raise_anything_else(data: bytes) -> None:
    try:
        document = parse_json_object(data)
    except CustodyError:
        return
    assert json.loads(data) == document


@given(st.integers(1, 256), st.data())
def test_every_leaf_of_a_tree_has_its_path_and_no_other_index(size: int, data: st.DataObject) -> None:
    leaves = [hash_leaf(bytes([index % 256, index // 256])) for index in range(size)]
    root, paths = build_tree(leaves)
    index = data.draw(st.integers(0, size - 1))
    assert (root, list(paths[index])) == (tree_root(leaves), tree_path(index, leaves))
    assert compute_root(leaves[index], index, size, paths[index]) == root
    other = data.draw(st.integers(0, 255).filter(lambda drawn: drawn != index))
    try:
        reached = compute_root(leaves[index], other, size, paths[index])
    except CustodyError:
        return
    assert reached != root


@given(st.integers(2, 256), st.data())
def test_a_path_that_is_cut_or_extended_is_refused(size: int, data: st.DataObject) -> None:
    leaves = [hash_leaf(bytes([index])) for index in range(size)]
    index = data.draw(st.integers(0, size - 1))
    path = build_tree(leaves)[1][index]
    with pytest.raises(CustodyError):
        compute_root(leaves[index], index, size, path[: data.draw(st.integers(0, len(path) - 1))])
    with pytest.raises(CustodyError):
        compute_root(leaves[index], index, size, (*path, leaves[0]))


segments = st.sampled_from(["a", "b", "ab"])
ids = st.lists(segments, min_size=1, max_size=3).map(lambda parts: "spiffe://td/" + "/".join(parts))
id_patterns = ids | ids.map(lambda text: text + "/*") | st.just("spiffe://td/*")
operations = st.text(alphabet="ab ", min_size=1, max_size=3)
operation_patterns = operations | operations.map(lambda text: text + "*") | st.just("*")


@given(id_patterns, id_patterns, id_patterns, ids)
def test_covering_ids_is_an_order_and_matches_no_more(one: str, two: str, three: str, spiffe_id: str) -> None:
    assert id_covers(one, one)
    if id_covers(one, two):
        assert id_matches(one, spiffe_id) or not id_matches(two, spiffe_id)
        assert id_covers(one, three) or not id_covers(two, three)


@given(operation_patterns, operation_patterns, operation_patterns, operations)
def test_covering_operations_is_an_order_and_matches_no_more(one: str, two: str, three: str, operation: str) -> None:
    assert operation_covers(one, one)
    if operation_covers(one, two):
        assert operation_matches(one, operation) or not operation_matches(two, operation)
        assert operation_covers(one, three) or not operation_covers(two, three)


scopes = st.frozensets(st.sampled_from("rwx"))
narrowings = st.builds(
    Narrowing,
    scope=st.none() | scopes,
    exp=st.none() | st.integers(0, 3),
    hops=st.none() | st.integers(0, 3),
    aud=st.none() | st.lists(id_patterns, max_size=2).map(tuple),
    ops=st.none() | st.lists(operation_patterns, max_size=2).map(tuple),
)
authorities = st.builds(
    Authority,
    exp=st.integers(0, 3),
    hops=st.integers(0, 3),
    scope=st.none() | scopes,
    aud=st.none() | st.lists(id_patterns, max_size=2).map(tuple),
    ops=st.none() | st.lists(operation_patterns, max_size=2).map(tuple),
)


def allows(authority: Authority, hop: int, now: int, callee: str, operation: str) -> bool:
    try:
        authority.check_call(hop=hop, now=now, callee=callee, operations=(operation,))
    except CustodyError:
        return False
    return True


@given(authorities, narrowings, st.integers(0, 3), st.integers(0, 3), ids, operations)
def test_narrowing_never_allows_more(
    authority: Authority, narrowing: Narrowing, hop: int, now: int, callee: str, operation: str
) -> None:
    try:
        left = authority.narrow(narrowing)
    except CustodyError:
        return
    assert allows(authority, hop, now, callee, operation) or not allows(left, hop, now, callee, operation)
    assert authority.scope is None or (left.scope is not None and left.scope <= authority.scope)
    assert left.narrow(narrowing) == left


@given(authorities, st.lists(st.none() | narrowings, max_size=3))
def test_folding_is_narrowing_one_after_the_other(authority: Authority, steps: list[Narrowing | None]) -> None:
    expected: Authority | None = authority
    for step in steps:
        try:
            expected = expected.narrow(step) if expected and step else expected
        except CustodyError:
            expected = None
            break
    try:
        assert fold(authority, steps) == expected
    except CustodyError:
        assert expected is None


@given(st.binary(max_size=200))
def test_no_payload_makes_the_record_reader_raise_anything_else(payload: bytes) -> None:
    with pytest.raises(CustodyError):
        parse_record(payload)


@given(st.text(alphabet="Aw.-_ =", max_size=40) | st.text(max_size=20))
def test_no_text_makes_the_seal_reader_raise_anything_else(text: str) -> None:
    with pytest.raises(CustodyError):
        parse_sealed(text)


@given(
    st.lists(st.sampled_from(["content-digest", "Content-Digest", "authorization", "x"]), max_size=4),
    st.binary(max_size=4),
    st.data(),
)
def test_no_headers_make_the_binding_raise_anything_else(names: list[str], body: bytes, data: st.DataObject) -> None:
    values = st.text(alphabet=st.characters(max_codepoint=255), max_size=8)
    headers = [[name, data.draw(values)] for name in names]
    given_input = {"method": "POST", "target_uri": "https://a/", "headers": headers, "body": b64(body)}
    outcome = answer({"kind": "binding", "input": given_input})
    assert outcome["result"] == "ok" or outcome["code"] == "custody_binding"
