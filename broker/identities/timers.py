"""What happens to a process after a while, unless something else does before: one timer for each.

Owns: the timers. Does not own: what a timer is for (``broker.identities.registry``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.references import Reference


class Timers:
    """One pending action for each process at most. Belongs to one event loop."""

    def __init__(self) -> None:
        self._pending: dict[Reference, asyncio.TimerHandle] = {}

    def start(self, delay_s: float, reference: Reference, action: Callable[[Reference], None]) -> None:
        """Call ``action`` in ``delay_s``, in place of what was pending."""
        self.cancel(reference)
        self._pending[reference] = asyncio.get_running_loop().call_later(delay_s, self._fire, reference, action)

    def cancel(self, reference: Reference) -> None:
        """Nothing is pending for ``reference`` any more."""
        timer = self._pending.pop(reference, None)
        if timer is not None:
            timer.cancel()

    def pending(self) -> tuple[Reference, ...]:
        """Every process for which an action is pending."""
        return tuple(self._pending)

    def _fire(self, reference: Reference, action: Callable[[Reference], None]) -> None:
        self._pending.pop(reference, None)
        action(reference)
