"""Prometheus metrics: the data plane's figures and the control process's own.

Owns: their text form. Does not own: counting in the data plane, or serving (``broker.admin``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.dataplane_api import DataPlane
from broker.status import Status


class BrokerCollector(Collector):
    """Collects when asked.

    Args:
        data_plane: its ``stats`` are translated as they are.
        read_status: the control process's state now.
    """

    def __init__(self, data_plane: DataPlane, read_status: Callable[[], Status]) -> None:
        self._data_plane = data_plane
        self._read_status = read_status

    def collect(self) -> Iterator[Metric]:
        """Every metric family."""
        for family in json.loads(self._data_plane.stats()).get("metrics", ()):
            yield translate_family(family)
        yield from _own_families(self._read_status())


def render_metrics(collector: Collector) -> bytes:
    """The text of everything that ``collector`` collects now."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def translate_family(family: dict[str, Any]) -> Metric:
    """A metric family of the data plane, given as JSON, as prometheus_client's own type."""
    name, text, samples = family["name"], family["help"], family["samples"]
    labels = sorted(samples[0]["labels"]) if samples else []
    if family["type"] == "histogram":
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for sample in samples:
            buckets = [(str(bound), count) for bound, count in sample["buckets"]]
            histogram.add_metric(_values(sample, labels), [*buckets, ("+Inf", sample["count"])], sample["sum"])
        return histogram
    kind = CounterMetricFamily if family["type"] == "counter" else GaugeMetricFamily
    metric = kind(name, text, labels=labels)
    for sample in samples:
        metric.add_metric(_values(sample, labels), sample["value"])
    return metric


def _values(sample: dict[str, Any], labels: Iterable[str]) -> list[str]:
    return [str(sample["labels"][label]) for label in labels]


def _own_families(status: Status) -> Iterator[Metric]:
    yield _gauge("hopseal_broker_healthy", "Whether the node's broker has no problem.", float(status.healthy))
    yield _gauge(
        "hopseal_broker_attestor_connected", "Whether the attestor answers.", float(status.attestor["connected"])
    )
    expires_at = status.attestor["svid_expires_at"]
    yield _gauge(
        "hopseal_broker_svid_remaining_seconds",
        "Time left of the broker's own SVID.",
        max(0.0, expires_at - time.time()) if expires_at else 0.0,
    )
    identities = GaugeMetricFamily("hopseal_broker_identities", "Processes that are followed.", labels=["kind"])
    for kind in ("caller", "listener"):
        identities.add_metric([kind], sum(1 for each in status.identities if each["kind"] == kind))
    yield identities
    callees = GaugeMetricFamily("hopseal_broker_callees", "Components that listen here.", labels=["state"])
    states = sorted({each["state"] for each in status.callees})
    for state in states:
        callees.add_metric([state], sum(1 for each in status.callees if each["state"] == state))
    yield callees
    yield from _policy_families(status.policies)
    yield from _audit_families(status.audit)


def _policy_families(policies: dict[str, Any]) -> Iterator[Metric]:
    now = time.time()
    age = max(0.0, now - policies["loaded_at"]) if policies["loaded_at"] else 0.0
    yield _gauge("hopseal_broker_policy_age_seconds", "Time since policies were last put in force.", age)
    yield _gauge(
        "hopseal_broker_policy_problems", "What keeps newer policies from being in force.", len(policies["problems"])
    )
    refused = CounterMetricFamily("hopseal_broker_policy_refused", "Newer policies that were not put in force.")
    refused.add_metric([], policies["refused"])
    yield refused


def _audit_families(audit: dict[str, Any]) -> Iterator[Metric]:
    now = time.time()
    age = max(0.0, now - audit["published_at"]) if audit["published_at"] else 0.0
    yield _gauge("hopseal_broker_audit_entries", "Durable entries of the custody log.", audit["entries"])
    yield _gauge("hopseal_broker_audit_signed_entries", "Entries under the newest signed checkpoint.", audit["signed"])
    yield _gauge(
        "hopseal_broker_audit_published_entries", "Entries under the newest published checkpoint.", audit["published"]
    )
    yield _gauge("hopseal_broker_audit_lag_entries", "Durable entries that are not published.", audit["lag"])
    yield _gauge("hopseal_broker_audit_checkpoint_age_seconds", "Time since a checkpoint was last published.", age)
    failures = CounterMetricFamily(
        "hopseal_broker_audit_witness_failures", "Cosignatures that did not come.", labels=["witness", "state"]
    )
    cosigned = CounterMetricFamily("hopseal_broker_audit_cosignatures", "Cosignatures that came.", labels=["witness"])
    for witness in audit["witnesses"]:
        cosigned.add_metric([witness["url"]], witness["cosigned"])
        for state, count in witness["failed"].items():
            failures.add_metric([witness["url"], state], count)
    yield from (failures, cosigned)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
