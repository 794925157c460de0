"""The evidence bundle's file: one form, strictly read, the same bytes for the same contents."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from audit_scene import witnessed
from hopseal.custody.encoding import encode_b64url, sha256
from hopseal.log import bundle as module
from hopseal.log.bundle import EvidenceBundle, EvidenceError, LoggedStatement, format_evidence, parse_evidence

Change = Callable[[dict[str, Any]], object]


def redigest(head: bytes) -> bytes:
    return head + f'"digest":"{encode_b64url(sha256(head))}"}}\n'.encode()


def changed(change: Change) -> bytes:
    """The file of a task with one member changed and a right digest."""
    members = json.loads(format_evidence(witnessed().scene.bundle()))
    del members["digest"]
    change(members)
    return redigest(json.dumps(members).encode().removesuffix(b"}") + b",")


def test_a_bundle_reads_back() -> None:
    data = format_evidence(witnessed().scene.bundle())
    assert format_evidence(parse_evidence(data)) == data


def test_an_empty_bundle_reads_back() -> None:
    assert parse_evidence(format_evidence(EvidenceBundle())) == EvidenceBundle()


def test_equal_contents_are_equal_bytes_in_whatever_order() -> None:
    one = witnessed().scene.bundle()
    proofs = dict(reversed([(key, texts[::-1] + texts) for key, texts in one.proofs.items()]))
    other = EvidenceBundle(
        tuple(LoggedStatement(each.sealed, (seen,)) for each in one.statements[::-1] for seen in each.seen),
        one.certificates[::-1] * 2,
        one.artifacts[::-1] * 2,
        proofs,
        one.policy,
        one.logs[::-1] * 2,
    )
    assert format_evidence(one) == format_evidence(other)


def test_white_space_and_the_order_of_members_do_not_matter() -> None:
    data = changed(lambda members: members.update(statements=members.pop("statements")))
    assert format_evidence(parse_evidence(data)) == format_evidence(witnessed().scene.bundle())


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members.update(v=2),
        lambda members: members.update(type="hopseal-evidenc"),
        lambda members: members.update(more=1),
        lambda members: members.pop("policy"),
        lambda members: members.pop("certs"),
        lambda members: members.update(policy=5),
        lambda members: members.update(statements={}),
        lambda members: members["statements"].append({}),
        lambda members: members["statements"][0].update(more=1),
        lambda members: members["statements"][0].update(sealed="x" * (module.MAX_SEALED_BYTES + 1)),
        lambda members: members["statements"][0]["seen"][0].update(dir="seen"),
        lambda members: members["statements"][0]["seen"][0].update(index=-1),
        lambda members: members["statements"][0]["seen"][0].update(origin=""),
        lambda members: members["statements"][0]["seen"][0].update(more=1),
        lambda members: members["statements"][0].update(seen=members["statements"][0]["seen"] * 9),
        lambda members: members["certs"].append("not base64"),
        lambda members: members["certs"].append("AAAA" * 5_000),
        lambda members: members["artifacts"][0].update(index="1"),
        lambda members: members["artifacts"][0].update(more=1),
        lambda members: members["artifacts"][0].pop("json"),
        lambda members: members["proofs"].update({"no key": []}),
        lambda members: members["proofs"].update({"rec." + "A" * 43: "text"}),
        lambda members: members["proofs"].update({"rec." + "A" * 43: ["x"] * 17}),
        lambda members: members.update(proofs=[]),
        lambda members: members.update(logs=[{"origin": "x"}]),
        lambda members: members["statements"].append([[[[]]]]),
    ],
)
def test_a_part_of_another_form_is_refused(change: Change) -> None:
    with pytest.raises(EvidenceError) as caught:
        parse_evidence(changed(change))
    assert caught.value.code == "evidence_malformed"
    assert "docs/evidence-bundle.md" in caught.value.remedy


@pytest.mark.parametrize("head", [b"", b"{", b"[1,", b'{"v":1,"v":1,', b"\xff,", b"[" * 100_000])
def test_what_is_no_object_is_refused(head: bytes) -> None:
    with pytest.raises(EvidenceError, match="evidence_malformed"):
        parse_evidence(redigest(head))


def test_a_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = format_evidence(EvidenceBundle())
    monkeypatch.setattr(module, "MAX_FILE_BYTES", len(data))
    assert parse_evidence(data) == EvidenceBundle()
    with pytest.raises(EvidenceError, match="1 GiB"):
        parse_evidence(b" " + data)


def test_a_truncated_file_is_refused_at_every_length() -> None:
    data = format_evidence(EvidenceBundle(policy="x"))
    for length in range(len(data)):
        with pytest.raises(EvidenceError):
            parse_evidence(data[:length])


def test_every_flipped_bit_of_a_file_is_noticed() -> None:
    data = bytearray(format_evidence(replace(witnessed().scene.bundle(), statements=(), proofs={})))
    for position in range(len(data)):
        for bit in range(8):
            data[position] ^= 1 << bit
            with pytest.raises(EvidenceError):
                parse_evidence(bytes(data))
            data[position] ^= 1 << bit


def test_altered_contents_are_called_damaged() -> None:
    data = format_evidence(EvidenceBundle(policy="quorum none\n"))
    with pytest.raises(EvidenceError) as caught:
        parse_evidence(data.replace(b"none", b"some"))
    assert caught.value.code == "evidence_damaged"
