"""Figures of the benchmarks: ratios of rounds, targets on each side, and one file that every benchmark adds to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bench.effort import cpu_s, pinned, rss_mb
from bench.figures import RESULTS, figure, keep

ROUNDS = [(1.0, 2.0), (4.0, 2.0), (3.0, 3.0)]


def test_the_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_medians() -> None:
    made = figure("calls", "/s", "peer", ROUNDS)
    assert (made.ratio, made.value, made.peer_value, made.rounds) == (1.0, 3.0, 2.0, 3)
    assert (made.target, made.holds) == (None, None)


@pytest.mark.parametrize(
    ("bounds", "holds"),
    [({"at_most": 1.0}, True), ({"at_most": 0.99}, False), ({"at_least": 1.0}, True), ({"at_least": 1.01}, False)],
)
def test_a_target_is_met_at_its_bound_and_missed_beyond(bounds: dict[str, float], holds: bool) -> None:
    assert figure("calls", "/s", "peer", ROUNDS, **bounds).holds is holds


def test_a_benchmark_renews_its_own_rows_and_leaves_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, unit in (("call", "old"), ("log", "/s"), ("call", "new")):
        keep(name, [figure("x", unit, "peer", ROUNDS)])
    assert [(row["benchmark"], row["unit"]) for row in json.loads(RESULTS.read_text())] == [
        ("log", "/s"),
        ("call", "new"),
    ]


def test_time_and_memory_of_this_process_are_told_and_a_command_is_pinned() -> None:
    own = [os.getpid()]
    assert cpu_s(own) > 0
    assert rss_mb([*own, *own]) > rss_mb(own) > 1
    assert pinned(1, ["load", Path("x")]) == ["taskset", "--cpu-list", "1", "load", "x"]
