"""Status decisions survive a restart and are never half written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attestor.control import StatusStore
from hopseal.documents.model import AgentStatus
from hopseal.errors import InvalidError, UnavailableError


def test_a_decision_is_there_after_a_restart(tmp_path: Path):
    StatusStore(tmp_path).decide("crm", AgentStatus.SUSPENDED)
    StatusStore(tmp_path).decide("hr", AgentStatus.RETIRED)
    assert StatusStore(tmp_path).decisions == {"crm": AgentStatus.SUSPENDED, "hr": AgentStatus.RETIRED}


def test_resuming_takes_the_decision_back(tmp_path: Path):
    store = StatusStore(tmp_path)
    store.decide("crm", AgentStatus.SUSPENDED)
    store.decide("crm", None)
    assert store.decisions == {}
    assert StatusStore(tmp_path).decisions == {}


def test_the_folder_and_file_are_for_the_attestor_alone(tmp_path: Path):
    store = StatusStore(tmp_path / "state")
    store.decide("crm", AgentStatus.SUSPENDED)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "agents.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"format": 2, "agents": {}}',
        b'{"format": 1}',
        b'{"format": 1, "agents": []}',
        b'{"format": 1, "agents": {"crm": "sleeping"}}',
        b'{"format": 1, "agents": {"../x": "suspended"}}',
        b'{"format": 1, "agents": {}, "more": 1}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_not_ours_refuses_to_start_instead_of_forgetting(tmp_path: Path, content: bytes):
    (tmp_path / "agents.json").write_bytes(content)
    with pytest.raises(InvalidError) as raised:
        StatusStore(tmp_path)
    assert raised.value.code == "status_file_invalid"


def test_a_decision_that_cannot_be_written_changes_nothing(tmp_path: Path):
    store = StatusStore(tmp_path / "state")
    store.decide("crm", AgentStatus.SUSPENDED)
    (tmp_path / "state").rename(tmp_path / "moved")
    with pytest.raises(UnavailableError) as raised:
        store.decide("hr", AgentStatus.RETIRED)
    assert raised.value.code == "status_file_unavailable"
    assert store.decisions == {"crm": AgentStatus.SUSPENDED}


def test_nothing_but_the_file_is_left_behind(tmp_path: Path):
    store = StatusStore(tmp_path)
    for status in AgentStatus:
        store.decide("crm", status)
    assert [path.name for path in tmp_path.iterdir()] == ["agents.json"]
    assert json.loads((tmp_path / "agents.json").read_text())["agents"] == {"crm": "retired"}
