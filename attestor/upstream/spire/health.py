"""Whether SPIRE Agent can be used, from what its streams report."""

from __future__ import annotations

from collections.abc import Callable

from attestor.upstream.protocol import UpstreamHealth
from hopseal.errors import HopsealError

KIND = "spire-delegated"


class Health:
    """Healthy while every link is up.

    Args:
        clock: NumericDate seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._problems: dict[str, str] = {}
        self.current = UpstreamHealth(KIND, healthy=False, since=int(clock()), detail="not connected yet")

    def link(self, name: str) -> Link:
        """A new link, down until it reports."""
        link = Link(name, self)
        self.note(name, "not connected yet")
        return link

    def note(self, name: str, problem: str) -> None:
        """``problem`` of the link ``name``; empty if there is none."""
        if problem:
            self._problems[name] = problem
        else:
            self._problems.pop(name, None)
        healthy = not self._problems
        since = self.current.since if healthy == self.current.healthy else int(self._clock())
        detail = "; ".join(f"{each}: {text}" for each, text in sorted(self._problems.items()))
        self.current = UpstreamHealth(KIND, healthy, since, detail)


class Link:
    """One stream or probe that must work."""

    def __init__(self, name: str, health: Health) -> None:
        self._name = name
        self._health = health

    def up(self) -> None:
        """It works."""
        self._health.note(self._name, "")

    def down(self, error: HopsealError) -> None:
        """It does not."""
        self._health.note(self._name, str(error))
