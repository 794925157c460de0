"""attestor.yaml: what is accepted, and every mistake at once with line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from attestor.config import load_config, parse_config
from attestor.upstream.settings import EmbeddedSettings, SpireSettings
from hopseal.errors import UnavailableError
from hopseal.settings import SettingsInvalidError

MINIMAL = """\
trust_domain: example.org
node: node-1
upstream:
  kind: embedded
  state_dir: /var/lib/hopseal/authority
"""


def mistakes_in(text: str) -> list[str]:
    with pytest.raises(SettingsInvalidError) as raised:
        parse_config("attestor.yaml", text.encode())
    assert raised.value.code == "config_invalid"
    return [str(each) for each in raised.value.mistakes]


def test_what_is_left_out_has_the_documented_defaults():
    config = parse_config("attestor.yaml", MINIMAL.encode())
    assert config.sockets.workload == Path("/run/hopseal/agent/api.sock")
    assert config.sockets.broker == Path("/run/hopseal/attestor/broker.sock")
    assert config.sockets.admin == Path("/run/hopseal/attestor/admin.sock")
    assert config.documents == Path("/etc/hopseal/agents")
    assert (config.reattest_interval_s, config.collector_timeout_s) == (10.0, 1.0)
    assert (config.limits.connections_per_uid, config.limits.streams_per_connection) == (64, 32)
    assert config.upstream == EmbeddedSettings(Path("/var/lib/hopseal/authority"), 600, 300, 86_400)
    assert (config.brokers, config.docker, config.podman, config.socket_group) == ((), (), (), None)


def test_every_key_is_read():
    config = parse_config(
        "attestor.yaml",
        b"""
trust_domain: example.org
node: node-1
documents: /docs
state_dir: /state
sockets: {workload: /a/api.sock, broker: /b/broker.sock, admin: /b/admin.sock}
socket_group: root
upstream: {kind: spire-delegated, workload_socket: /s/api.sock, admin_socket: /s/admin.sock}
brokers: [{node: node-1, attest: {uid: 990, unit: hopseal-broker.service}}]
engines: {docker: [/run/docker.sock], podman: [/run/podman.sock]}
reattest_interval_s: 2.5
collector_timeout_s: 3
limits: {connections_per_uid: 5, processes: 7, config_file_bytes: 9}
log: {format: console, level: debug}
""",
    )
    assert config.upstream == SpireSettings(Path("/s/api.sock"), Path("/s/admin.sock"))
    assert (config.brokers[0].node, config.brokers[0].attest.uid) == ("node-1", 990)
    assert config.docker == (Path("/run/docker.sock"),)
    assert config.socket_group == 0
    assert (config.reattest_interval_s, config.collector_timeout_s) == (2.5, 3.0)
    assert (config.limits.connections_per_uid, config.limits.processes, config.limits.config_file_bytes) == (5, 7, 9)
    assert (config.log.format, config.log.level) == ("console", "debug")


def test_all_mistakes_come_in_one_run_each_with_line_and_remedy():
    found = mistakes_in(
        """\
trust_domain: Example.org
node: Node_1
documents: agents
reattest_interval: 5
collector_timeout_s: 99
upstream:
  kind: embeded
sockets:
  admin: /x/../admin.sock
  admn: /y
brokers:
  - node: node-1
limits:
  processes: many
log: {format: xml}
"""
    )
    lines = {int(each.split(":")[1]) for each in found}
    assert lines == {1, 2, 3, 4, 5, 7, 9, 10, 12, 14, 15}
    assert any("did you mean reattest_interval_s?" in each for each in found)
    assert any("did you mean embedded?" in each for each in found)
    assert any("did you mean admin?" in each for each in found)
    assert all(each.startswith("attestor.yaml:") for each in found)


def test_required_keys_are_named_when_missing():
    found = mistakes_in("documents: /docs\n")
    assert [each.split(": ")[1] for each in found] == ["node", "trust_domain", "upstream"]


def test_a_key_that_stands_twice_is_a_mistake():
    assert "node: stands here twice" in mistakes_in(MINIMAL + "node: node-2\n")[0]


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "a: &x 1\nb: *x\n", "\x00", "[" * 5000, "a: !!python/none x\n"])
def test_what_is_no_plain_mapping_is_one_mistake_and_no_crash(text):
    assert len(mistakes_in(text)) == 1


def test_text_that_is_not_utf8_names_its_line():
    with pytest.raises(SettingsInvalidError) as raised:
        parse_config("attestor.yaml", b"node: a\ntrust_domain: \xff\n")
    assert raised.value.mistakes[0].line == 2


def test_one_path_for_two_sockets_is_a_mistake():
    assert "two sockets have one path" in mistakes_in(MINIMAL + "sockets: {admin: /a/s, broker: /a/s}\n")[0]


def test_two_brokers_of_one_node_are_a_mistake():
    brokers = "brokers:\n" + 2 * ("  - {node: n, attest: {uid: 5, unit: a.service}}\n")
    assert "two brokers have one node name" in mistakes_in(MINIMAL + brokers)[0]


def test_an_unknown_group_is_a_mistake():
    assert "there is no group" in mistakes_in(MINIMAL + "socket_group: no-such-group\n")[0]


def test_a_ca_that_lives_too_short_for_its_svids_is_a_mistake():
    assert "ca_ttl_s" in mistakes_in(MINIMAL + "  ca_ttl_s: 700\n")[0]


@pytest.mark.parametrize(
    ("value", "is_valid"), [("0.1", True), ("0.09", False), ("3600", True), ("3601", False), ("'5'", False)]
)
def test_numbers_are_held_to_their_bounds(value, is_valid):
    text = MINIMAL + f"reattest_interval_s: {value}\n"
    if is_valid:
        assert parse_config("attestor.yaml", text.encode()).reattest_interval_s == float(value)
    else:
        assert "reattest_interval_s" in mistakes_in(text)[0]


def test_a_file_that_cannot_be_read_is_unavailable(tmp_path: Path):
    with pytest.raises(UnavailableError) as raised:
        load_config(tmp_path / "none.yaml")
    assert raised.value.code == "config_unreadable"
