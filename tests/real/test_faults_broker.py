"""A broker that is killed under load, and one whose log has no room."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from real.nodes import get
from real.oneagent import OneAgent, agent_folder, agent_on
from real.rogue import Rogue, rogue_on

LOG_BYTES = 32 << 20


@pytest.fixture(scope="module")
def agent() -> Iterator[OneAgent]:
    """The broker's state stands on a small filesystem of its own."""
    with agent_folder() as folder:
        state = folder / "node" / "state" / "broker"
        state.mkdir(parents=True, mode=0o700)
        options = f"size={LOG_BYTES},mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "hopseal-test", str(state)], check=True)
        try:
            upstream = {"kind": "embedded", "state_dir": str(folder / "authority")}
            with agent_on(folder, upstream) as agent:
                agent.node.start()
                agent.start_server()
                yield agent
        finally:
            subprocess.run(["umount", "-l", str(state)], check=True)


@pytest.fixture(scope="module")
def rogue(agent: OneAgent) -> Iterator[Rogue]:
    with rogue_on(agent) as rogue:
        yield rogue


def test_a_broker_killed_under_load_loses_no_acknowledged_record_and_no_call_after_its_restart(agent):
    load = agent.start_load()
    load.wait_calls(50)
    agent.node.stop("broker", how=signal.SIGKILL)
    agent.node.start("broker")
    load.wait_calls(30)
    agent.stop_actors()
    # What failed was cut off by the kill or came while nobody served; nothing was refused.
    assert {answer["status"] for answer in load.failed} <= {0, 502, 503}, load.failed
    agent.assert_logged(load.answers)
    agent.assert_chains_verify()


def test_a_record_accepted_before_the_kill_is_refused_after_it(agent, rogue):
    message = rogue.message()
    assert rogue.send(message)[0] == 200
    agent.node.stop("broker", how=signal.SIGKILL)
    agent.node.start("broker")
    agent.start_caller().wait_answer(status=200)
    status, answer = rogue.send(message)
    assert (status, answer["code"]) == (400, "custody_replayed")


def test_a_handle_from_before_the_kill_is_unknown_and_begins_no_task(agent):
    caller = agent.start_caller()
    handle = caller.call()["handle"]
    assert caller.call(handle=handle, path="/before")["status"] == 200
    agent.node.stop("broker", how=signal.SIGKILL)
    agent.node.start("broker")
    caller.wait_answer(status=200)
    refused = caller.call(handle=handle, path="/after")
    assert (refused["status"], refused["code"]) == (409, "handle_unknown")
    assert "POST /after" not in {getattr(entry, "op", None) for entry in agent.log().entries}


def test_a_full_disk_stops_the_calls_and_room_brings_them_back_with_nothing_lost(agent):
    load, caller = agent.start_load(), agent.start_caller()
    filler = agent.node.folder / "state" / "broker" / "filler"
    fill(filler)
    caller.wait_answer(status=503, code="log_unavailable")
    refused = [caller.call(path=f"/full/{number}") for number in range(5)]
    assert {(answer["status"], answer["code"]) for answer in refused} == {(503, "log_unavailable")}
    agent.wait_health("broker", healthy=False, about="the custody log cannot be written")
    assert get(agent.node.broker_admin, "/readyz").status_code == 503
    filler.unlink()
    caller.wait_answer(status=200)
    load.wait_calls(20)
    agent.wait_health("broker", healthy=True)
    agent.stop_actors()
    # The log of the sending or that of the receiving side had no room: both write one record.
    refusals = {(503, "log_unavailable"), (503, "custody_unavailable")}
    assert {(answer["status"], answer["code"]) for answer in load.failed} <= refusals
    agent.assert_logged(load.answers)
    agent.assert_chains_verify()


def test_a_broker_started_on_a_full_disk_refuses_calls_until_there_is_room(agent):
    agent.node.stop("broker")
    filler = agent.node.folder / "state" / "broker" / "filler"
    fill(filler)
    caller = agent.start_caller()
    agent.node.launch("broker")
    agent.node.wait_listening("broker")
    caller.wait_answer(status=503, code="log_unavailable")
    agent.wait_health("broker", healthy=False, about="the custody log cannot be written")
    filler.unlink()
    caller.wait_answer(status=200)
    agent.wait_health("broker", healthy=True)
    agent.assert_chains_verify()
    assert agent.log().damage == ()


def fill(path: Path) -> None:
    """Write until there is no room for another byte."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
