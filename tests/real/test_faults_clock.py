"""A broker whose clock is an hour off: what it is sent is refused cleanly, and it works again with the right time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from faketime import shifted
from real.oneagent import OneAgent, embedded_agent
from real.rogue import Rogue, rogue_on

HOUR_S = 3600
LONG = {"x509_svid_ttl_s": 6 * HOUR_S, "ca_ttl_s": 48 * HOUR_S}


@pytest.fixture(scope="module")
def agent() -> Iterator[OneAgent]:
    """SVIDs that live longer than the clock is off, so that nothing but the records' time can be wrong."""
    with embedded_agent(authority=LONG) as agent:
        yield agent


@pytest.fixture(scope="module")
def rogue(agent: OneAgent) -> Iterator[Rogue]:
    with rogue_on(agent) as rogue:
        yield rogue


def restart_broker(agent: OneAgent, environment: dict[str, str]) -> None:
    agent.node.environments = {"broker": environment}
    agent.node.stop("broker")
    agent.node.start("broker")


def test_a_broker_an_hour_ahead_refuses_records_of_the_right_time_as_expired_until_its_clock_is_right(agent, rogue):
    restart_broker(agent, shifted(HOUR_S))
    agent.start_caller().wait_answer(status=200)  # alone with its clock it works
    status, answer = rogue.send(rogue.message())
    assert (status, answer["code"]) == (400, "custody_expired")
    restart_broker(agent, {})
    agent.start_caller().wait_answer(status=200)
    assert rogue.send(rogue.message())[0] == 200
    agent.stop_actors()


@pytest.mark.parametrize(
    ("offset_s", "ttl_s", "reason"),
    [(-HOUR_S, 6 * HOUR_S, "certificate is not yet valid"), (HOUR_S, 600, "SVID has expired")],
    ids=["before every SVID", "after every SVID"],
)
def test_a_clock_outside_every_svids_life_gives_refusals_and_a_reason_and_the_right_time_helps(offset_s, ttl_s, reason):
    with embedded_agent(authority={**LONG, "x509_svid_ttl_s": ttl_s}) as agent:
        agent.node.environments = {"broker": shifted(offset_s)}
        agent.node.stop("broker")
        agent.node.launch("broker")
        agent.node.wait_listening("broker")
        agent.wait_health("broker", healthy=False, about=reason)
        answer = agent.start_caller().call()
        assert (answer["status"], answer["code"]) == (503, "attestor_unavailable")
        restart_broker(agent, {})
        agent.start_caller().wait_answer(status=200)


@pytest.mark.parametrize("offset_s", [HOUR_S, -HOUR_S], ids=["late", "early"])
def test_a_record_of_another_hour_is_refused_as_expired(rogue, offset_s):
    status, answer = rogue.send(rogue.message(at=int(time.time()) - offset_s))
    assert (status, answer["code"]) == (400, "custody_expired")
