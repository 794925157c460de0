"""broker.yaml: what it may say, and that every mistake is named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.commands import describe_config
from broker.config import Endpoint, load_config, parse_endpoint
from broker.names import parse_component
from broker_parts import write_config
from hopseal.errors import InvalidError, UnavailableError
from hopseal.log.note import COSIGNATURE_ED25519, ED25519, VerifierKey
from hopseal.settings import SettingsInvalidError

WITNESS = VerifierKey("witness.example", COSIGNATURE_ED25519, bytes(range(32)))
LOG = VerifierKey("log.example", ED25519, bytes(range(32)))


def mistakes(path: Path) -> list[str]:
    with pytest.raises(SettingsInvalidError) as caught:
        load_config(path)
    return [f"{mistake.line}: {mistake.message}" for mistake in caught.value.mistakes]


def test_defaults_are_filled_in(tmp_path):
    config = load_config(write_config(tmp_path))
    assert config.attestor.grace_s == 1
    assert config.limits.body_bytes == 8_388_608
    assert config.log.format == "json"
    assert config.routes is None
    assert str(config.broker_id) == "spiffe://example.org/hopseal/broker/node-1"
    assert str(config.attestor_id) == "spiffe://example.org/hopseal/attestor/node-1"


def test_listening_addresses_have_the_documented_defaults(tmp_path):
    path = write_config(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("peer_listen", "metrics_listen"))))
    config = load_config(path)
    assert (str(config.peer_listen), str(config.metrics_listen)) == ("0.0.0.0:8443", "127.0.0.1:9464")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trust_domain", "Example.org", "trust_domain: trust domain may hold"),
        ("node", "Node_1", "node: 'Node_1' is not a DNS label"),
        ("documents", "agents", "documents: 'agents' is not an absolute path"),
        ("state_dir", "/var/../lib", "state_dir: '/var/../lib' is not an absolute path"),
        ("sockets", "{out: /a.sock, admin: /a.sock}", "sockets.admin: is the same path as sockets.out"),
        ("sockets", "{out: /a.sock}", "sockets.admin: missing"),
        ("sockets", "{out: /a.sock, admin: /b.sock, peer: /c}", "sockets.peer: unknown key"),
        (
            "attestor",
            "{workload_socket: /a, broker_socket: /b, grace_s: 61}",
            "attestor.grace_s: 61.0 is not between 0.0 and 60.0",
        ),
        (
            "attestor",
            "{workload_socket: /a, broker_socket: /b, admin_socket: c}",
            "attestor.admin_socket: 'c' is not an absolute path",
        ),
        ("attestor", "{workload_socket: /a}", "attestor.broker_socket: missing"),
        ("peer_listen", "node-1.example.org:8443", "peer_listen: 'node-1.example.org' is not an IP address"),
        ("peer_listen", "127.0.0.1:70000", "peer_listen: '127.0.0.1:70000' is not host:port"),
        ("metrics_listen", "9464", "metrics_listen: must be text"),
        ("routes", "routes.yaml", "routes: 'routes.yaml' is not an absolute path"),
        ("policies", "7", "policies: must be text"),
        ("policies", "{observe: [x]}", "policies.observe: 'x' is no policy set"),
        ("policies", "{folder: /a, admin_folder: /a}", "policies.admin_folder: is the same as folder"),
        ("policies", "{labels: {place: /a}}", "policies.labels.place: unknown key"),
        ("default_component", "crm", "default_component: 'crm' is not <agent>/<component>"),
        ("limits", "{body_bytes: 0}", "limits.body_bytes: 0 is not between 1 and 268435456"),
        ("limits", "{openings: 101}", "limits.openings: 101 is not between 1 and 100"),
        ("limits", "{callers: many}", "limits.callers: must be a whole number"),
        ("limits", "{worker_threads: 65}", "limits.worker_threads: 65 is not between 1 and 64"),
        ("log", "{format: xml}", "log.format: 'xml' is none of json, console"),
        ("log", "{level: trace}", "log.level: 'trace' is none of debug, info, warning, error"),
        ("audit", "{listen: localhost:80}", "audit.listen: 'localhost' is not an IP address"),
        ("audit", "{segment_bytes: 1}", "audit.segment_bytes: 1 is not between 1048576 and 1099511627776"),
        ("audit", "{checkpoint_interval_s: 61}", "audit.checkpoint_interval_s: 61.0 is not between 0.05 and 60.0"),
        ("audit", "{when_full: drop}", "audit.when_full: 'drop' is none of fail, wait"),
        ("audit", "{strict: true}", "audit.strict: nobody would be waited for"),
        ("audit", "{quorum: 1}", "audit.quorum: is more than there are witnesses"),
        ("audit", "{witness: []}", "audit.witness: unknown key"),
        (
            "audit",
            f"{{witnesses: [{{url: 'ftp://w', key: {WITNESS}}}]}}",
            "audit.witnesses[0].url: 'ftp://w' is no submission prefix",
        ),
        (
            "audit",
            f"{{witnesses: [{{url: 'https://u@w', key: {WITNESS}}}]}}",
            "audit.witnesses[0].url: 'https://u@w' is no submission prefix",
        ),
        (
            "audit",
            f"{{witnesses: [{{url: 'https://w?a', key: {WITNESS}}}]}}",
            "audit.witnesses[0].url: 'https://w?a' is no submission prefix",
        ),
        (
            "audit",
            f"{{witnesses: [{{url: 'https://w:x', key: {WITNESS}}}]}}",
            "audit.witnesses[0].url: 'https://w:x' is no submission prefix",
        ),
        (
            "audit",
            f"{{witnesses: [{{url: 'https://w', key: {LOG}}}]}}",
            "audit.witnesses[0].key: the key does not make cosignatures",
        ),
        ("audit", "{witnesses: [{url: 'https://w', key: w+1+2}]}", "audit.witnesses[0].key: a text is no verifier key"),
        ("audit", "{witnesses: [{url: 'https://w'}]}", "audit.witnesses[0].key: missing"),
        ("polices", "/etc/p", "polices: unknown key"),
    ],
)
def test_each_mistake_is_named_with_its_line(tmp_path, key, value, expected):
    path = write_config(tmp_path, **{key: value})
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if text.startswith(f"{key}:"))
    found = mistakes(path)
    assert len(found) == 1, found
    assert found[0].startswith(f"{line}: {expected}")


def test_every_mistake_is_named_in_one_run(tmp_path):
    path = write_config(tmp_path, node="A", documents="x", log="{format: xml}", extra="1")
    assert len(mistakes(path)) == 4


def test_required_keys_are_named_when_they_are_missing(tmp_path):
    path = tmp_path / "broker.yaml"
    path.write_text("log: {format: json}\n")
    text = "\n".join(mistakes(path))
    for key in ("trust_domain", "node", "documents", "state_dir", "sockets", "attestor"):
        assert f"{key}: missing" in text


def test_an_absent_file_is_unavailable(tmp_path):
    with pytest.raises(UnavailableError, match="config_unreadable"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["host:1", "a.b-c.d:65535", "10.0.0.1:8443", "[::1]:8443", "[2001:db8::1]:1"])
def test_endpoints_are_read_and_written_alike(text):
    assert str(parse_endpoint(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", ":1", "host", "host:", "host:-1", "host:01", "host:65536", "host:1 ", "Host:1", "a..b:1", "-a:1"),
        *("::1:80", "[::1]", "[::g]:1", "10.0.0.256:1", "10.0.0:1", "host:1\n", "h\u00f6st:1", "host:\u0661"),
        "a" * 254 + ":1",
    ],
)
def test_malformed_endpoints_are_refused(text):
    with pytest.raises(InvalidError, match="endpoint_malformed"):
        parse_endpoint(text)


@pytest.mark.parametrize("text", ["", "crm", "crm/", "/a", "crm/a/b", "Crm/a", "crm/a\n", "crm/-a"])
def test_malformed_component_names_are_refused(text):
    with pytest.raises(InvalidError, match="component_malformed"):
        parse_component(text)


def test_an_ipv6_endpoint_keeps_its_brackets():
    assert parse_endpoint("[::1]:8443") == Endpoint("::1", 8443)


def test_the_effective_configuration_is_plain_json_values(tmp_path):
    shown = describe_config(load_config(write_config(tmp_path)))
    assert shown["attestor"]["broker_socket"] == f"{tmp_path}/broker.sock"
    assert shown["peer_listen"] == "127.0.0.1:0"
    assert shown["trust_domain"] == "example.org"


def test_the_log_is_kept_without_witnesses_and_served_nowhere_unless_asked(tmp_path):
    audit = load_config(write_config(tmp_path)).audit
    assert (audit.listen, audit.witnesses, audit.quorum, audit.strict) == (None, (), 0, False)
    assert (audit.segment_bytes, audit.checkpoint_interval_s, audit.wait_when_full) == (268_435_456, 1.0, False)


def test_one_witness_is_enough_unless_more_are_asked_for(tmp_path):
    one = f"{{url: 'https://w/a/', key: {WITNESS}}}"
    two = f"{{url: 'http://127.0.0.1:8080', key: {WITNESS}}}"
    text = f"{{listen: 127.0.0.1:9465, strict: true, when_full: wait, witnesses: [{one}, {two}]}}"
    config = load_config(write_config(tmp_path, audit=text))
    assert config.audit.witnesses == (("https://w/a", WITNESS), ("http://127.0.0.1:8080", WITNESS))
    assert (config.audit.quorum, config.audit.strict, config.audit.wait_when_full) == (1, True, True)
    described = describe_config(config)["audit"]
    assert described["listen"] == "127.0.0.1:9465"
    assert described["witnesses"] == [["https://w/a", str(WITNESS)], ["http://127.0.0.1:8080", str(WITNESS)]]
    assert config.log_origin == "custody.example.org/node-1"
