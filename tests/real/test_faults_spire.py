"""A real SPIRE that goes away under load, or comes late."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from real.nodes import get
from real.oneagent import SERVER, OneAgent, Spire, agent_folder, agent_on, spire_for


@dataclass(frozen=True)
class Stack:
    spire: Spire
    agent: OneAgent


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Registered, with a SPIRE server but no SPIRE agent yet; the first test starts the rest."""
    with agent_folder() as folder, spire_for(folder) as spire, agent_on(folder, spire.upstream) as agent:
        spire.register(agent.node.documents)
        yield Stack(spire, agent)


def test_both_daemons_come_up_before_spire_and_become_healthy_when_it_appears(stack):
    agent = stack.agent
    for daemon in ("attestor", "broker"):
        agent.node.launch(daemon)
    agent.node.wait_listening("attestor")
    agent.node.wait_listening("broker")
    agent.wait_health("attestor", healthy=False, about="upstream spire-delegated")
    agent.wait_health("broker", healthy=False, about="the attestor cannot be asked")
    stack.spire.agent.start()
    agent.wait_health("attestor", healthy=True)
    agent.wait_health("broker", healthy=True)
    agent.start_server()
    assert agent.start_caller().call()["status"] == 200


def test_calls_go_on_while_the_spire_agent_is_dead_and_health_says_so(stack):
    agent, spire = stack.agent, stack.spire
    load = agent.start_load()
    spire.agent.kill()
    agent.wait_health("attestor", healthy=False, about="upstream spire-delegated")
    agent.wait_health("broker", healthy=False, about="attestor: upstream spire-delegated")
    assert get(agent.node.broker_admin, "/readyz").status_code == 200  # calls can be brokered
    load.wait_calls(30)
    assert agent.start_caller().call()["status"] == 200  # a process that SPIRE was never asked about
    assert agent.node.state(SERVER) == "attested"
    spire.agent.start()
    agent.wait_health("attestor", healthy=True)
    agent.wait_health("broker", healthy=True)
    load.wait_calls(10)
    agent.stop_actors()
    assert load.failed == []
    agent.assert_logged(load.answers)


def test_calls_go_on_while_the_spire_server_is_dead(stack):
    agent, spire = stack.agent, stack.spire
    load = agent.start_load()
    spire.server.kill()
    load.wait_calls(30)
    assert agent.start_caller().call()["status"] == 200
    spire.server.start()
    load.wait_calls(10)
    agent.wait_health("attestor", healthy=True)
    agent.stop_actors()
    assert load.failed == []
    agent.assert_logged(load.answers)


def test_the_chains_of_the_outages_verify_from_the_log(stack):
    stack.agent.assert_chains_verify()
