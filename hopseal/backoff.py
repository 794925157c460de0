"""How long to wait before dialling again.

Owns: exponential growth with full jitter. Does not own: waiting.
"""

from __future__ import annotations

import random

FIRST_S = 0.05
LONGEST_S = 3.0


class Backoff:
    """Growing, jittered pauses: many daemons that lost one attestor, SPIRE or engine do not come back in step.

    Args:
        source: where the jitter comes from.
        first_s: bound of the first pause.
        longest_s: bound of every later one.
    """

    def __init__(self, source: random.Random, *, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> None:
        self._source = source
        self._first_s = first_s
        self._longest_s = longest_s
        self._bound_s = first_s

    def next_s(self) -> float:
        """The next pause in seconds: between half of the current bound and all of it."""
        pause_s = self._bound_s * self._source.uniform(0.5, 1.0)
        self._bound_s = min(self._bound_s * 2, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Begin with the first pause again: what was dialled answered."""
        self._bound_s = self._first_s
