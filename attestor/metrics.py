"""What is counted, in Prometheus' terms.

Owns: names and labels of the metrics. Does not own: serving them (``attestor.admin``).

Labels are states and reason codes only: no pid, path or identity becomes a time series.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from attestor.standing import Standing
from attestor.states import State

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The attestor's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._verdicts = Counter(
            "hopseal_attestor_verdicts", "Verdicts published", ("state", "code"), registry=self._registry
        )
        self._durations = Histogram(
            "hopseal_attestor_measure_seconds",
            "Duration of one measurement of a process",
            ("kind",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._drifts = Counter(
            "hopseal_attestor_drifts",
            "Attested components that are no longer approved",
            ("code",),
            registry=self._registry,
        )

    def verdict_reached(self, verdict: str, code: str) -> None:
        """A new verdict was published."""
        self._verdicts.labels(verdict, code).inc()

    def component_changed(self, standing: Standing) -> None:
        """A process became something else as regards one component."""
        if standing.state is State.DRIFTED:
            self._drifts.labels(standing.code).inc()

    def observe_duration(self, duration_s: float, is_first: bool) -> None:
        """A measurement took this long."""
        self._durations.labels("first" if is_first else "again").observe(duration_s)

    def add_gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A gauge whose value is ``read`` at each scrape."""
        Gauge(f"hopseal_attestor_{name}", help_text, registry=self._registry).set_function(read)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
