"""Labels that operators give to components and services: where they are, and what threat they are under.

Owns: the form of a label file, a YAML mapping of a pattern to a text. Does not own: what a label means; policies say
that. A pattern is a SPIFFE ID or ``host:port``, with ``*`` at its end or beginning for any text; the most exact wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hopseal.settings_file import parse_settings

MAX_LABELS = 10_000

_PATTERN = re.compile(r"\*|\*?[!-)+-~]{1,2048}|[!-)+-~]{1,2048}\*", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Label:
    """``label`` for everything that ``pattern`` names."""

    pattern: str
    label: str

    def to_json(self) -> dict[str, str]:
        """The JSON object that the data plane takes."""
        return {"pattern": self.pattern, "label": self.label}


def parse_labels(file: str, data: bytes) -> tuple[Label, ...]:
    """The labels in a file's bytes, in the order of their patterns.

    Raises:
        SettingsInvalidError: the file has mistakes; all of them are named.
    """
    settings, section = parse_settings(file, data)
    patterns = sorted(section.keys())
    if len(patterns) > MAX_LABELS:
        section.report(f"more than {MAX_LABELS} labels", "join them by patterns")
        patterns = patterns[:MAX_LABELS]
    labels = []
    for pattern in patterns:
        label = section.text(pattern)
        if _PATTERN.fullmatch(pattern) is None:
            section.mistake(pattern, "is no pattern", "write a SPIFFE ID or host:port, with * at one end at most")
        elif label and _LABEL.fullmatch(label) is None:
            section.mistake(pattern, f"{label!r} is no label", "use letters, digits and . _ / : -")
        labels.append(Label(pattern, label))
    settings.finish()
    return tuple(labels)
