"""Approving what runs: only digests change in a document's text, and every mode does what its name says."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from hopseal.cli.approval import ApprovalMode, Change, Measured, approve_measured
from hopseal.documents.model import AttestBlock
from hopseal.documents.parse import parse_documents
from hopseal.errors import InvalidError
from hopseal.ids import TrustDomain

A, B, C, D = (f"sha256:{letter * 64}" for letter in "abcd")
FLOW = f'{{image: [{A}], uid: 7, config: {{files: [/etc/x], digest: ["{B}"]}}}}'
BLOCK = f"""
        # the image of the last release
        image:
          - {A}   # built by ci
        uid: 7
        config:
          files: [/etc/x]
          digest: [{B}]

      # what follows is another key"""
HEAD = """\
# reviewed by the platform team
apiVersion: hopseal.dev/v1alpha1
kind: Agent
metadata: {name: crm}
spec:
  owner: someone@example.org   # answers for it
  components:
    - name: one
      role: connector
      attest: """
TAIL = """
      hint: main
    - {name: two, role: connector, attest: {uid: 8, exe: ["sha256:%s"]}}
""" % ("e" * 64)


def document(attest: str) -> str:
    return HEAD.rstrip() + attest + TAIL if attest.startswith("\n") else HEAD + attest + TAIL


def alternatives(text: str) -> tuple[AttestBlock, ...]:
    documents = parse_documents({"crm.yaml": text.encode()}, TrustDomain.parse("example.org"))
    component = documents.component("crm/one")
    assert component is not None
    return component.attest


def shape(block: AttestBlock) -> tuple[Any, ...]:
    return block.image, block.config.digests if block.config else (), block.uid


@pytest.fixture(params=[FLOW, BLOCK], ids=["flow", "block"])
def text(request: pytest.FixtureRequest) -> str:
    return document(request.param)


def test_replacing_changes_the_digests_and_nothing_else(text: str) -> None:
    approved, changes = approve_measured(text, {"one": [Measured((C,), None, D)]}, ApprovalMode.REPLACE)
    assert [shape(each) for each in alternatives(approved)] == [((C,), (D,), 7)]
    assert changes == (Change("one", "image", (A,), (C,)), Change("one", "config", (B,), (D,)))
    before, after = yaml.safe_load(text), yaml.safe_load(approved)
    for part in (before, after):
        del part["spec"]["components"][0]["attest"]
    assert before == after
    for comment in ("# reviewed by the platform team", "# answers for it", "# the image of the last release"):
        assert (comment in approved) == (comment in text)


def test_what_is_approved_already_changes_nothing(text: str) -> None:
    for mode in ApprovalMode:
        assert approve_measured(text, {"one": [Measured((C, A), None, B)]}, mode) == (text, ())


def test_a_component_that_does_not_run_is_left_alone(text: str) -> None:
    for mode in ApprovalMode:
        assert approve_measured(text, {"one": []}, mode) == (text, ())


def test_an_item_that_was_not_measured_keeps_its_digests(text: str) -> None:
    approved, changes = approve_measured(text, {"one": [Measured((C,), None, None)]}, ApprovalMode.REPLACE)
    assert [shape(each) for each in alternatives(approved)] == [((C,), (B,), 7)]
    assert [change.item for change in changes] == ["image"]


def test_several_instances_are_all_approved(text: str) -> None:
    running = [Measured((C,), None, B), Measured((A,), None, B)]
    approved, _ = approve_measured(text, {"one": running}, ApprovalMode.REPLACE)
    assert [shape(each) for each in alternatives(approved)] == [((C, A), (B,), 7)]


def test_adding_makes_an_alternative_and_never_mixes_old_with_new(text: str) -> None:
    approved, changes = approve_measured(text, {"one": [Measured((C,), None, D)]}, ApprovalMode.ADD)
    assert [shape(each) for each in alternatives(approved)] == [((A,), (B,), 7), ((C,), (D,), 7)]
    assert changes == (Change("one", "alternative", (), (C, D)),)
    again, more = approve_measured(approved, {"one": [Measured((A,), None, D)]}, ApprovalMode.ADD)
    assert [shape(each) for each in alternatives(again)][2:] == [((A,), (D,), 7)]
    assert len(more) == 1


def test_pruning_removes_the_alternative_that_does_not_run(text: str) -> None:
    both, _ = approve_measured(text, {"one": [Measured((C,), None, D)]}, ApprovalMode.ADD)
    pruned, changes = approve_measured(both, {"one": [Measured((C,), None, D)]}, ApprovalMode.PRUNE)
    assert [shape(each) for each in alternatives(pruned)] == [((C,), (D,), 7)]
    assert changes == (Change("one", "alternative", (A, B), ()),)


def test_pruning_removes_digests_that_do_not_run(text: str) -> None:
    both, _ = approve_measured(text, {"one": [Measured((C,), None, B), Measured((A,), None, B)]}, ApprovalMode.REPLACE)
    pruned, changes = approve_measured(both, {"one": [Measured((C,), None, B)]}, ApprovalMode.PRUNE)
    assert [shape(each) for each in alternatives(pruned)] == [((C,), (B,), 7)]
    assert changes == (Change("one", "image", (C, A), (C,)),)


def test_pruning_never_leaves_a_component_that_nothing_can_be(text: str) -> None:
    assert approve_measured(text, {"one": [Measured((D,), None, D)]}, ApprovalMode.PRUNE) == (text, ())


def test_replacing_one_of_several_alternatives_is_left_to_a_human(text: str) -> None:
    both, _ = approve_measured(text, {"one": [Measured((C,), None, D)]}, ApprovalMode.ADD)
    with pytest.raises(InvalidError) as caught:
        approve_measured(both, {"one": [Measured((D,), None, D)]}, ApprovalMode.REPLACE)
    assert caught.value.code == "attest_has_alternatives"
