"""The page of attacks: every row of custody-wire §14 stands in it, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from audit_attacks import ATTACKS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "tests" / "attacks" / "README.md"
WIRE = ROOT / "docs" / "custody-wire.md"
NAMED = re.compile(r"((?:tests|broker)/[\w/.]+)::(\w+)(?:\[([^\]]*)\])?")
ON_TAMPERED_EVIDENCE = "test_the_command_never_verifies_tampered_evidence"


def rows(page: Path, heading: str) -> dict[str, str]:
    """First to second cell of the only table below a heading."""
    _, _, rest = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    section = rest.partition("\n## ")[0]
    found = [line.strip("|").split("|", 1) for line in section.splitlines() if line.startswith("|")]
    return {first.strip(): second.strip() for first, second in found[2:]}


FORCED = rows(PAGE, "Attack table of custody-wire §14")
THREATS = rows(PAGE, "Threats to custody, policy and audit")
ABUSE = rows(PAGE, "Resource abuse on the broker's sockets")


@cache
def defined(path: str) -> tuple[frozenset[str], frozenset[str]]:
    """Functions of a file, and the texts in it that can name a case."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".rs"):
        return frozenset(re.findall(r"fn (\w+)\(", text)), frozenset()
    nodes = list(ast.walk(ast.parse(text)))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return frozenset(functions), frozenset(texts | functions)


def test_every_attack_of_the_table_is_forced_by_a_test() -> None:
    assert list(FORCED) == list(rows(WIRE, "14. Attack table"))
    assert len(FORCED) > 20


@pytest.mark.parametrize("row", [*FORCED.items(), *THREATS.items(), *ABUSE.items()], ids=lambda row: row[0])
def test_every_test_that_is_named_exists(row: tuple[str, str]) -> None:
    found = NAMED.findall(row[1])
    assert found
    assert len(found) == row[1].count("::")
    for path, name, case in found:
        functions, texts = defined(path)
        assert name in functions, f"{path}::{name}"
        cases = {each.name for each in ATTACKS} if name == ON_TAMPERED_EVIDENCE else texts
        assert not case or case in cases, f"{path}::{name}[{case}]"


def test_every_file_of_the_corpus_that_is_named_exists() -> None:
    corpus = ROOT / "tests" / "attacks" / "corpus" / "http"
    named = re.findall(r"(h[12]/[a-z0-9-]*)(…?)", " ".join(ABUSE.values()))
    assert len(named) > 10
    for name, is_prefix in named:
        assert list(corpus.glob(f"{name}*.txt" if is_prefix else f"{name}.txt")), name


def test_what_is_not_stopped_is_said_not_to_be() -> None:
    assert FORCED["**Not stopped**"].startswith("Not stopped: ")
