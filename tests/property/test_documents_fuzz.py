"""Whatever stands in a document file, the parser answers with a set or with mistakes."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from hopseal.documents.model import DocumentSet, DocumentsInvalidError
from hopseal.documents.parse import parse_documents
from hopseal.ids import TrustDomain

TD = TrustDomain.parse("example.org")
KEYS = st.sampled_from(
    [
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "spec",
        "owner",
        "components",
        "role",
        "attest",
        "image",
        "exe",
        "config",
        "files",
        "digest",
        "posture",
        "uid",
        "calls",
        "to",
        "operations",
        "listen",
        "acceptFrom",
        "spiffeId",
    ]
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(),
    st.sampled_from(["hopseal.dev/v1alpha1", "Agent", "orchestrator", "sha256:" + "a" * 64, "unix:///a", "restricted"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=30,
)


def outcome(data: bytes) -> DocumentSet | DocumentsInvalidError:
    try:
        return parse_documents({"x.yaml": data}, TD)
    except DocumentsInvalidError as error:
        found = error
    assert found.problems
    assert all(1 <= problem.line <= data.count(b"\n") + 2 for problem in found.problems)
    return found


@given(st.binary(max_size=300))
def test_bytes_give_our_error(data: bytes) -> None:
    assert isinstance(outcome(data), DocumentsInvalidError)


@given(st.text(max_size=300))
def test_text_gives_our_error(text: str) -> None:
    assert isinstance(outcome(text.encode("utf-8", "surrogatepass")), DocumentsInvalidError)


@given(VALUES)
def test_any_yaml_value_gives_our_error(value: Any) -> None:
    assert isinstance(outcome(yaml.safe_dump(value).encode()), DocumentsInvalidError)


@given(VALUES, st.data())
def test_a_document_with_one_value_replaced_is_read_or_refused(value: Any, data: st.DataObject) -> None:
    document: Any = {
        "apiVersion": "hopseal.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "a"},
        "spec": {
            "owner": "o",
            "components": [{"name": "c", "role": "connector", "attest": {"uid": 1, "exe": ["sha256:" + "a" * 64]}}],
        },
    }
    at: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or data.draw(st.booleans()):
            at[key] = value
            break
        at = at[key]
    outcome(yaml.safe_dump(document).encode())
