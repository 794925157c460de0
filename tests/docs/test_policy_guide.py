"""The chapter on policy: its policies fit the schema, its cases hold, and it names all that a policy can ask."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.policy.commands import policy_group
from broker.policy.engine import PolicyEngine, schema_text
from broker.policy.labels import parse_labels
from broker.policy.sets import Layer, PolicySet, encode_sets

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "docs" / "examples" / "policy"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", blocks("cedar"), ids=range(len(blocks("cedar"))))
def test_every_policy_of_the_chapter_fits_the_schema(text: str) -> None:
    layer = Layer.ADMIN if "@guardrail" in text else Layer.OPERATOR
    assert len(PolicyEngine(encode_sets([PolicySet("chapter", layer, (text,))], ()), "{}")) > 0


def test_the_example_files_hold_what_the_chapter_shows_and_their_cases_hold() -> None:
    result = CliRunner().invoke(policy_group, ["test", str(EXAMPLES / "cases.yaml"), "--json"])
    assert result.exit_code == 0, result.output
    expected = {case["expect"] for case in json.loads(result.output)["cases"]}
    assert expected == {"allow", "deny", "would-deny"}
    files = "".join(path.read_text() for path in EXAMPLES.rglob("*.cedar"))
    shown = blocks("cedar")[:2]
    assert all(text.strip() in files for text in shown)


def test_the_chapter_names_everything_that_a_policy_can_ask() -> None:
    declared = re.findall(r"^\s+(\w+)\??: ", schema_text(), re.MULTILINE)
    grammar = {"principal", "resource", "context"}
    values = {
        "caller",
        "callee",
        "caller_documented",
        "side",
        "user",
        "user_issuer",
        "user_verified",
    }  # told in the schema
    members = {"issuer", "subject", "verified", "version", "sensitivity_level"}
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert set(declared) - grammar - values - members - named == set()


def test_the_label_file_of_the_chapter_is_one() -> None:
    (text,) = [text for text in blocks("yaml") if "partner.example" in text]
    assert len(parse_labels("chapter", text.encode())) == 3
