"""An attestor that is killed, and comes back in time or not."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from real.cluster import hopseal
from real.nodes import get
from real.oneagent import SERVER, SHELL, OneAgent, embedded_agent
from waiting import wait_until

SHORT_GRACE_S = 1.5


@pytest.fixture(scope="module")
def agent() -> Iterator[OneAgent]:
    with embedded_agent() as agent:
        yield agent


def attestor_link(agent: OneAgent) -> dict[str, object]:
    link: dict[str, object] = get(agent.node.broker_admin, "/v1/status").json()["attestor"]
    return link


def identities(agent: OneAgent) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = get(agent.node.broker_admin, "/v1/status").json()["identities"]
    return listed


def test_an_attestor_back_within_grace_names_the_same_instances_and_no_call_fails(agent):
    load, stream = agent.start_load(), agent.start_stream()
    before = {each["pidfd_inode"]: each["instance"] for each in identities(agent)}
    agent.node.stop("attestor", how=signal.SIGKILL)
    wait_until(lambda: not attestor_link(agent)["connected"])
    assert attestor_link(agent)["grace_until"]
    agent.wait_health("broker", healthy=False, about="the attestor cannot be asked")
    load.wait_calls(10)
    agent.node.start("attestor")
    wait_until(lambda: {each["state"] for each in identities(agent)} == {"confirmed"}, what="all confirmed again")
    agent.wait_health("broker", healthy=True)
    load.wait_calls(10)
    assert {each["pidfd_inode"]: each["instance"] for each in identities(agent)} == before
    assert not any(line["event"] == "closed" for line in stream.lines)
    agent.stop_actors()
    assert load.failed == []


def test_without_confirmation_after_grace_keys_are_dropped_and_connections_closed(agent):
    agent.node.grace_s = SHORT_GRACE_S
    agent.node.write()
    agent.node.stop("broker")
    agent.node.start("broker")
    agent.node.wait_callable(SERVER)
    caller, stream = agent.start_caller(), agent.start_stream()
    assert caller.call()["status"] == 200
    killed_at = time.monotonic()
    agent.node.stop("attestor", how=signal.SIGKILL)
    assert caller.call()["status"] == 200  # within grace
    closed = stream.wait_line("closed")
    assert SHORT_GRACE_S - 0.5 < closed["heard"] - killed_at < SHORT_GRACE_S + 2
    caller.wait_answer(status=503, code="attestor_unavailable")
    assert all(each["svid_expires_at"] is None for each in identities(agent))
    agent.wait_health("broker", healthy=False, about="the attestor cannot be asked")
    assert get(agent.node.broker_admin, "/readyz").status_code == 503


def test_a_new_caller_is_not_admitted_while_the_attestor_is_away(agent):
    answer = agent.start_caller().call()
    assert (answer["status"], answer["code"]) == (503, "attestor_unavailable")


def test_an_attestor_back_after_grace_makes_the_node_work_again(agent):
    agent.node.start("attestor")
    agent.wait_health("broker", healthy=True)
    agent.node.wait_callable(SERVER)
    agent.start_caller().wait_answer(status=200)
    agent.stop_actors()


def test_a_suspension_survives_the_attestors_restart(agent):
    socket = ("--attestor-socket", str(agent.node.attestor_admin))
    assert hopseal("agents", "suspend", "back", *socket).returncode == 0
    agent.node.stop("attestor", how=signal.SIGKILL)
    agent.node.start("attestor")
    agent.wait_health("broker", healthy=True)
    caller = agent.start_caller()
    caller.wait_answer(status=503, code="callee_unavailable")
    wait_until(lambda: agent.node.state(SERVER) == "suspended")
    assert hopseal("agents", "resume", "back", *socket).returncode == 0
    agent.node.wait_callable(SERVER)
    caller.wait_answer(status=200)
    assert agent.node.state(SHELL) == "attested"
