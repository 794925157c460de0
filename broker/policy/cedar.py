"""Cedar text: literals, patterns and policies. Pure.

Owns: that a text of a document means itself in Cedar. Does not own: what is permitted.
"""

from __future__ import annotations

import re

from hopseal.documents.model import Component

_PLAIN = re.compile(r"[ !#-)+-\[\]-~]", re.ASCII)  # printable ASCII that means itself in a Cedar string and pattern
_ACTION = 'action == Hopseal::Action::"call"'


def quote(text: str) -> str:
    """``text`` as a Cedar string literal that means exactly ``text``."""
    return '"' + "".join("*" if each == "*" else escape(each) for each in text) + '"'


def quote_pattern(pattern: str) -> str:
    """``pattern`` as a Cedar ``like`` pattern: ``*`` at its end is a wildcard, every other one is itself."""
    body, wildcard = (pattern[:-1], "*") if pattern.endswith("*") else (pattern, "")
    return '"' + "".join(r"\*" if each == "*" else escape(each) for each in body) + wildcard + '"'


def policy(effect: str, name: str, principal: str, resource: str, condition: str) -> str:
    """One policy over calls, with its name."""
    text = f"@id({quote(name)})\n{effect}({principal}, {_ACTION}, {resource})"
    return f"{text}\n{condition};" if condition else f"{text};"


def match(attribute: str, pattern: str) -> str:
    """The condition that ``attribute`` fits ``pattern``."""
    if pattern.endswith("*"):
        return f"{attribute} like {quote_pattern(pattern)}"
    return f"{attribute} == {quote(pattern)}"


def uid(component: Component) -> str:
    """The entity of ``component``."""
    return f"Hopseal::Component::{quote(str(component.spiffe_id))}"


def escape(character: str) -> str:
    """``character`` as it stands in a literal or pattern where it means itself."""
    return character if _PLAIN.fullmatch(character) else f"\\u{{{ord(character):x}}}"
