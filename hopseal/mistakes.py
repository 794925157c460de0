"""A mistake in a file that a person wrote, as it is shown to that person.

Owns: what is known of one. Does not own: finding it (``hopseal.settings``, ``hopseal.documents``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake in one file; ``line`` counts from 1."""

    file: str
    line: int
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" + (f" ({self.remedy})" if self.remedy else "")
