"""Every example that is shipped loads in the program it is for."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from attestor.config import parse_config as parse_attestor_config
from broker.config import load_config as load_broker_config
from broker.routes import parse_routes
from hopseal.cli.main import cli
from hopseal.documents.load import load_documents
from hopseal.ids import TrustDomain
from hopseal.log.policy import parse_policy
from hopseal.witness.config import load_config as load_witness_config

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.glob("*/attestor*.yaml")))
def test_every_attestor_example_loads(name):
    here = grp.getgrgid(os.getgid()).gr_name  # the group of the broker exists on nodes, not on every machine
    text = (DEPLOY / "systemd" / name).read_text().replace("socket_group: hopseal-broker", f"socket_group: {here}")
    config = parse_attestor_config(name, text.encode())
    assert config.node == "node-1"


def test_the_broker_example_loads():
    config = load_broker_config(DEPLOY / "systemd" / "broker.yaml")
    assert config.node == "node-1"


def test_the_routes_example_loads():
    routes = parse_routes("routes.yaml", (DEPLOY / "systemd" / "routes.yaml").read_bytes())
    assert [component for component, _ in routes] == ["crm-assistant/crm-connector"]


def test_the_agent_example_loads():
    documents = load_documents(DEPLOY / "agents", TrustDomain.parse("example.org"))
    assert [component.qualified for component in documents.components] == [
        "crm-assistant/orchestrator",
        "crm-assistant/reasoner",
        "crm-assistant/crm-connector",
    ]


def test_the_witness_example_loads():
    config = load_witness_config(DEPLOY / "systemd" / "witness.yaml")
    assert list(config.logs) == ["custody.example.org/node-1"]


def test_the_policy_example_asks_for_two_of_three_witnesses():
    policy = parse_policy((DEPLOY / "auditor" / "witnesses.policy").read_bytes())
    assert [(group.threshold, len(group.members)) for group in policy.groups] == [(2, 3)]
    assert [log.key.name for log in policy.logs] == ["custody.example.org/node-1"]


def test_every_unit_runs_a_command_that_there_is():
    units = sorted((DEPLOY / "systemd").glob("*.service"))
    assert len(units) == 3
    for unit in units:
        (line,) = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
        words = line.partition("=")[2].split()
        result = CliRunner().invoke(cli, [*words[1 : words.index("--config")], "--help"])
        assert (result.exit_code, "--config" in result.output) == (0, True), unit.name
