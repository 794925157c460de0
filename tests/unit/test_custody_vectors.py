"""The Python codec against the published vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from custody_answers import answer
from hopseal.custody.errors import Code
from hopseal.custody.seal import format_path
from vectors import generate
from vectors.scene import unb64u

FOLDER = Path(__file__).parent.parent / "vectors"


def load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))


def all_cases() -> list[Any]:
    cases = []
    for name in generate.FILES:
        document = load(name)
        for case in document["cases"]:
            request = {"kind": document["kind"], "input": document["defaults"] | case["input"]}
            cases.append(pytest.param(request, case["expect"], id=f"{name}: {case['name']}"))
    return cases


@pytest.mark.parametrize(("request_", "expect"), all_cases())
def test_a_vector_gives_its_expected_answer(request_: dict[str, Any], expect: dict[str, Any]) -> None:
    assert answer(request_) == expect


@pytest.mark.parametrize("name", generate.FILES)
def test_the_committed_vectors_are_what_the_generator_writes(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text(encoding="ascii") == generate.render(name)


def test_no_file_of_vectors_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(generate.FILES)


def codes_of(*kinds: str) -> set[str]:
    documents = [load(name) for name in generate.FILES]
    return {case["expect"].get("code") for each in documents if each["kind"] in kinds for case in each["cases"]}


def test_every_code_has_a_message_that_gets_it() -> None:
    assert {code.value for code in Code} - {Code.RECEIPT_UNAVAILABLE} <= codes_of("receive")
    assert Code.RECEIPT_UNAVAILABLE in codes_of("receipt_verify")


def test_case_names_are_unique_in_a_file() -> None:
    for name in generate.FILES:
        names = [case["name"] for case in load(name)["cases"]]
        assert len(names) == len(set(names)), name


@pytest.mark.parametrize(
    "case",
    [case for case in load("seal_batch")["cases"] if len(case["input"]["payloads"]) <= 33],
    ids=lambda case: case["name"],
)
def test_no_statement_verifies_at_another_index(case: dict[str, Any]) -> None:
    given = case["input"]
    for index, (payload, path) in enumerate(zip(given["payloads"], given["paths"], strict=True)):
        siblings = [unb64u(path)[1:]] if path else []
        for other in set(range(len(given["payloads"]) + 2)) - {index}:
            text = f"{payload}.{format_path(other, siblings) or 'AA'}.{given['jws']}"
            request = {"kind": "seal", "input": {"sealed": text, "leaf": given["leaf"]}}
            assert answer(request)["code"] in {Code.MALFORMED, Code.SIGNATURE}
