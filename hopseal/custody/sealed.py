"""A sealed statement together with the claims in it.

Owns: the pair, unverified. Does not own: its proof (``verification``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from hopseal.custody.claims import Claims
from hopseal.custody.seal import SealedStatement

C_co = TypeVar("C_co", bound=Claims, covariant=True)


@dataclass(frozen=True, slots=True)
class Sealed(Generic[C_co]):
    """A sealed statement and the claims it carries; nothing about it is verified."""

    statement: SealedStatement
    claims: C_co

    @property
    def hash(self) -> str:
        """The statement hash."""
        return self.statement.hash

    @property
    def text(self) -> str:
        """The whole sealed text."""
        return self.statement.text
