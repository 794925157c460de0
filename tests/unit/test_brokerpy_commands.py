"""``hopseal broker``: checking and showing a configuration."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from broker.commands import broker_group
from broker_parts import write_config
from hopseal.settings import SettingsInvalidError


def invoke(*arguments: str):
    return CliRunner().invoke(broker_group, arguments)


def test_check_names_a_good_file_and_starts_nothing(tmp_path):
    path = write_config(tmp_path)
    result = invoke("run", "--config", str(path), "--check")
    assert result.exit_code == 0
    assert result.output == f"{path}: no mistakes\n"
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("command", [("run", "--check"), ("run",), ("config",)])
def test_mistakes_reach_the_command_line_as_they_are(tmp_path, command):
    path = write_config(tmp_path, node="A", extra="1")
    result = invoke(*command, "--config", str(path))
    assert isinstance(result.exception, SettingsInvalidError)
    assert len(result.exception.mistakes) == 2


def test_config_prints_every_value_in_effect(tmp_path):
    path = write_config(tmp_path)
    shown = json.loads(invoke("config", "--config", str(path), "--json").output)
    assert shown["limits"]["openings"] == 16
    assert shown["attestor"]["admin_socket"] is None
    lines = invoke("config", "--config", str(path)).output.splitlines()
    assert "limits.openings: 16" in lines
    assert f"attestor.broker_socket: {tmp_path}/broker.sock" in lines


@pytest.mark.parametrize("command", [(), ("run",), ("config",)])
def test_help_is_there_with_an_example(command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert not command or "Example" in result.output
