"""Selectors of type ``hopseal``: measured facts as text, in evidence and in registration entries.

Owns: the vocabulary and its text form. Does not own: measuring.
Source: docs, section Selectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SELECTOR_TYPE = "hopseal"


class Posture(StrEnum):
    """Pod Security Standards level that holds for a live process; ordered by :attr:`rank`."""

    PRIVILEGED = "privileged"
    BASELINE = "baseline"
    RESTRICTED = "restricted"

    @property
    def rank(self) -> int:
        """0 for privileged, 1 for baseline, 2 for restricted."""
        return list(Posture).index(self)

    @property
    def implied(self) -> tuple[Posture, ...]:
        """Every level that holds when this one does, weakest first."""
        return tuple(Posture)[: self.rank + 1]


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """One selector value of type ``hopseal``, for example ``image:sha256:…``."""

    value: str


def posture_selectors(level: Posture) -> frozenset[Selector]:
    """One selector for each level that holds."""
    return frozenset(Selector(f"posture:{each}") for each in level.implied)


def component_selectors(agent: str, component: str, role: str) -> frozenset[Selector]:
    """The three selectors that exist only once every attested item of the component holds."""
    return frozenset({Selector(f"agent:{agent}"), Selector(f"component:{component}"), Selector(f"role:{role}")})
