"""A file of cases: what policies must say to given calls.

Owns: its form, and whether an answer is the expected one. Does not own: the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.policy.config import PolicyConfig
from broker.policy.question import Asked
from broker.policy.sources import Sources
from hopseal.ids import TrustDomain
from hopseal.settings import Section
from hopseal.settings_file import load_settings

EXPECTATIONS = ("allow", "deny", "would-deny")
_HOPS = 64


@dataclass(frozen=True, slots=True)
class Case:
    """One call and what is expected.

    Args:
        expect: ``allow``, ``deny``, or ``would-deny``: allowed, and an observed set would deny it.
        rule: the name of a rule that must be among those that decided; empty for any.
    """

    name: str
    asked: Asked
    expect: str
    rule: str


@dataclass(frozen=True, slots=True)
class CaseFile:
    """The cases, and where their policies are if the file says so."""

    sources: Sources | None
    cases: tuple[Case, ...]


def load_cases(path: Path) -> CaseFile:
    """The file at ``path``; folders in it are relative to its own.

    Raises:
        SettingsInvalidError: it has mistakes; all of them are named.
        UnavailableError: it cannot be read.
    """
    settings, top = load_settings(path)
    sources = _read_sources(top.section("policies"), path.parent) if "policies" in top else None
    cases = tuple(_read_case(section, number) for number, section in enumerate(top.section_list("cases"), start=1))
    if not cases:
        top.mistake("cases", "there are none", "list at least one")
    settings.finish()
    return CaseFile(sources, cases)


def judge_case(case: Case, found: dict[str, Any]) -> str:
    """Why the answer is not the expected one; empty if it is."""
    told = "deny" if not found["allowed"] else "would-deny" if found["would_deny"] else "allow"
    if told != case.expect:
        return f"expected {case.expect}, got {told}: {found['detail']}"
    deciding = found["would_deny"] if told == "would-deny" else [found]
    rules = [rule["rule"] for each in deciding for rule in each["rules"]]
    if case.rule and case.rule not in rules:
        return f"expected the rule {case.rule!r}, got {', '.join(map(repr, rules)) or 'none'}"
    return ""


def _read_sources(section: Section, folder: Path) -> Sources:
    def under(key: str) -> Path | None:
        return (folder / section.text(key)).resolve() if key in section else None

    labels = section.section("labels")
    found = PolicyConfig(
        folder=under("folder"),
        admin_folder=under("admin_folder"),
        observe=section.texts("observe"),
        location=(folder / labels.text("location")).resolve() if "location" in labels else None,
        threat=(folder / labels.text("threat")).resolve() if "threat" in labels else None,
    )
    documents = (folder / section.text("documents", default="agents")).resolve()
    domain = section.parsed("trust_domain", TrustDomain.parse, TrustDomain("example.org"), default="example.org")
    return Sources(documents, domain, found)


def _read_case(section: Section, number: int) -> Case:
    given: dict[str, Any] = {}
    if "hop" in section:
        given["hop"] = section.integer("hop", minimum=0, maximum=_HOPS)
    for key in ("task", "target", "args_hash", "a2a_context"):
        if key in section:
            given[key] = section.text(key)
    for key in ("chain", "approvals", "approved_by"):
        if key in section:
            given[key] = list(section.texts(key))
    if "recorded" in section:
        given["recorded"] = section.flag("recorded", default=True)
    if "evidence_age_s" in section:
        given["evidence_age_s"] = section.integer("evidence_age_s", minimum=0, maximum=10**9)
    if "user" in section:
        user = section.section("user")
        verified = user.flag("verified", default=True)
        given["user"] = {"issuer": user.text("issuer"), "subject": user.text("subject"), "verified": verified}
    asked = Asked(
        caller=section.text("caller"),
        callee=section.text("callee"),
        operation=section.text("operation"),
        side=section.choice("side", ("caller", "callee"), default="caller"),
        at=section.text("at") if "at" in section else "",
        given=given,
    )
    name = section.text("name", default=f"case {number}: {asked.caller} calls {asked.callee}: {asked.operation}")
    rule = section.text("rule") if "rule" in section else ""
    return Case(re.sub(r"\s+", " ", name), asked, section.choice("expect", EXPECTATIONS), rule)
