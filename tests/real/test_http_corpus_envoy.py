"""The corpus of malformed HTTP at a stock Envoy: its verdicts are the ones that ours are compared with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from http_corpus import Case, load_cases
from http_corpus_targets import Envoy, envoys

CASES = load_cases()
NAMED = {"ids": lambda case: case.name}


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    with envoys(tmp_path_factory.mktemp("envoy")) as made:
        yield made


def without_timing(case: Case, verdict: str) -> str:
    """How many requests of a flood arrive before it is noticed is a matter of time."""
    return verdict.partition(" x")[0] if "flood" in case.name else verdict


@pytest.mark.parametrize("case", CASES, **NAMED)
def test_envoy_gives_the_verdict_that_is_written_down(envoy: Envoy, case: Case) -> None:
    assert without_timing(case, envoy.out(case)) == case.keys["envoy"]


@pytest.mark.parametrize("case", CASES, **NAMED)
def test_envoy_behind_mutual_tls_gives_the_verdict_that_is_written_down(envoy: Envoy, case: Case) -> None:
    assert without_timing(case, envoy.peer(case)) == case.keys["envoy-peer"]
