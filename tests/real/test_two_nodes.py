"""A task over three hops and two nodes on a real SPIRE, and its chain verified from the logs alone."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from real.cluster import AGENT, THREE_HOPS, Cluster, hopseal, two_nodes

Line = dict[str, Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with two_nodes() as running:
        yield running


@pytest.fixture(scope="module")
def logs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies of both nodes' logs after one task."""
    (answer,) = cluster.task(THREE_HOPS)
    assert [result["status"] for result in answer["body"]["results"]] == [200, 200], answer
    folder = tmp_path_factory.mktemp("logs")
    copies = [folder / f"{node.name}.log" for node in cluster.nodes]
    for node, copy in zip(cluster.nodes, copies, strict=True):
        shutil.copyfile(node.log_folder / "custody.log", copy)
    return copies


def edited(log: Path, to: Path, edit: Callable[[Line], Line | None]) -> Path:
    """A copy of ``log`` with every entry passed through ``edit`` and sums made right again, as a forger would."""
    with to.open("wb") as output:
        for raw in log.read_bytes().rstrip(b"\0").splitlines():
            changed = edit(json.loads(raw[9:]))
            if changed is not None:
                payload = json.dumps(changed, separators=(",", ":")).encode()
                output.write(f"{zlib.crc32(payload):08x} ".encode() + payload + b"\n")
    return to


def show(*logs: Path) -> tuple[int, str]:
    made = hopseal("chain", "show", "--last", "--json", *(part for log in logs for part in ("--log", str(log))))
    return made.returncode, made.stdout


def test_the_task_is_one_verified_tree_out_of_both_logs(logs):
    code, shown = show(*logs)
    assert code == 0, shown
    for name in ("shell", "orchestrator", "reasoner", "connector"):
        assert f"/agents/{AGENT}/{name}" in shown


def test_one_nodes_log_alone_verifies_what_that_node_saw(logs):
    assert show(logs[1])[0] == 0


def test_a_hop_cut_out_of_the_logs_is_seen(logs, tmp_path):
    def without_hop_one(entry: Line) -> Line | None:
        if entry.get("type") != "rec":
            return entry
        return None if entry["hop"] == 1 else {**entry, "ancestors": []}

    code, _ = show(*(edited(log, tmp_path / log.name, without_hop_one) for log in logs))
    assert code == 1


def test_a_record_changed_in_the_logs_is_seen(logs, tmp_path):
    def with_another_payload(entry: Line) -> Line | None:
        if entry.get("type") == "rec" and entry["hop"] == 2:
            payload, _, rest = entry["sealed"].partition(".")
            entry["sealed"] = f"{payload[:-4]}AAAA.{rest}"
        return entry

    code, _ = show(*(edited(log, tmp_path / log.name, with_another_payload) for log in logs))
    assert code == 1


def test_a_chain_without_its_bundle_is_not_verified(logs, tmp_path):
    def without_bundles(entry: Line) -> Line | None:
        return None if entry.get("type") == "bundle" else entry

    code, _ = show(*(edited(log, tmp_path / log.name, without_bundles) for log in logs))
    assert code == 1
