"""Agent documents about parties without custody: what is read, what is a mistake, and what it permits."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.egress_config import read_egress
from broker.policy.engine import PolicyEngine
from broker.policy.facts import document_entities, encode_facts
from broker.policy.sets import document_sets, encode_sets
from broker.routes import parse_routes
from hopseal.documents.model import (
    Custody,
    DocumentSet,
    DocumentsInvalidError,
    ExternalCall,
    PeerCall,
    Sensitivity,
)
from hopseal.documents.parse import parse_documents
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.settings import SettingsInvalidError
from hopseal.settings_file import parse_settings

TD = TrustDomain.parse("example.org")
A = f"sha256:{'a' * 64}"
LEDGER = SpiffeId.parse("spiffe://partner.example/ledger")
FRONT, BACK, PROXY = (f"spiffe://example.org/agents/crm/{name}" for name in ("front", "back", "proxy"))


def component(name: str, uid: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": "connector", "attest": {"uid": uid, "exe": [A]}, **more}


def document(calls: list[dict[str, Any]] | None = None, accept_from: list[Any] | None = None) -> dict[str, Any]:
    """``front`` calls, ``back`` listens, ``proxy`` holds its own key."""
    back: dict[str, Any] = {"listen": "unix:///run/agents/crm/back.sock"}
    if accept_from is not None:
        back["acceptFrom"] = accept_from
    front: dict[str, Any] = {"mayStart": True} | ({} if calls is None else {"calls": calls})
    components = [component("front", 1, **front), component("back", 2, **back), component("proxy", 3)]
    spec = {"owner": "someone@example.org", "components": components}
    return {"apiVersion": "hopseal.dev/v1alpha1", "kind": "Agent", "metadata": {"name": "crm"}, "spec": spec}


def parse(made: dict[str, Any]) -> DocumentSet:
    return parse_documents({"crm.yaml": yaml.safe_dump(made, sort_keys=False).encode()}, TD)


def problems(made: dict[str, Any]) -> str:
    with pytest.raises(DocumentsInvalidError) as caught:
        parse(made)
    return "\n".join(map(str, caught.value.problems))


def test_calls_are_read_by_whom_they_call() -> None:
    calls = [
        {"to": "back"},
        {"to": "proxy", "custody": "none"},
        {"to": str(LEDGER), "name": "ledger.partner", "custody": "none", "operations": ["GET /entries*"]},
        {"external": "api.example.com", "operations": ["POST /v1/chat"], "sensitivity": "confidential"},
        {"external": "*.example.net:8443"},
        {"external": "db.example.com:5432", "opaque": True},
    ]
    front = parse(document(calls)).components[0]
    assert [(call.qualified, call.custody) for call in front.calls] == [
        ("crm/back", Custody.FULL),
        ("crm/proxy", Custody.NONE),
    ]
    assert front.peers == (PeerCall(LEDGER, "ledger.partner", ("GET /entries*",)),)
    assert front.externals == (
        ExternalCall("api.example.com", 443, ("POST /v1/chat",), Sensitivity.CONFIDENTIAL),
        ExternalCall("*.example.net", 8443),
        ExternalCall("db.example.com", 5432, opaque=True),
    )
    assert front.is_brokered
    assert not parse(document()).components[2].is_brokered


def test_accept_from_holds_texts_and_entries_without_custody() -> None:
    accept = [FRONT, {"id": "spiffe://example.org/edge/*", "custody": "none"}, {"id": "spiffe://other.example/x"}]
    back = parse(document(accept_from=accept)).components[1]
    assert back.accept_from == (FRONT, "spiffe://other.example/x")
    assert back.accept_plain == ("spiffe://example.org/edge/*",)


WRONG_CALLS: list[tuple[list[dict[str, Any]], str]] = [
    ([{"to": str(LEDGER), "name": "ledger"}], "custody: a peer that no document describes is called without custody"),
    ([{"to": str(LEDGER), "custody": "none"}], "name: missing"),
    ([{"to": str(LEDGER), "custody": "none", "name": "Ledger"}], "'Ledger' is not a DNS label"),
    ([{"to": str(LEDGER), "custody": "none", "name": ".".join(["a" * 60] * 4)}], "name is too long"),
    ([{"to": "spiffe://partner.example", "custody": "none", "name": "l"}], "to: "),
    ([{"to": str(LEDGER), "custody": "none", "name": "back"}], "'back' is the name of a component here"),
    ([{"to": str(LEDGER), "custody": "none", "name": "back.crm"}], "'back.crm' is the name of a component here"),
    ([{"to": str(LEDGER), "custody": "none", "name": "hopseal.local"}], "is the name of a component here"),
    ([{"to": PROXY, "custody": "none", "name": "p"}], f"{PROXY} is documented"),
    ([{"to": str(LEDGER), "custody": "none", "name": name} for name in ("a", "b")], f"{LEDGER} is listed twice"),
    (
        [{"to": f"{LEDGER}{n}", "custody": "none", "name": "same"} for n in (1, 2)],
        "same is listed twice",
    ),
    ([{"to": "back", "custody": "none"}], "custody: crm/back speaks custody"),
    ([{"to": "back", "custody": "some"}], "'some' is none of full, none"),
    ([{"to": "back", "name": "b"}], "name: a documented component has its own"),
    ([{"to": "back"}, {"to": "back", "custody": "none"}], "crm/back is listed twice"),
    ([{"external": "api.example.com"}, {"external": "api.example.com:443"}], "api.example.com:443 is listed twice"),
    ([{"external": "back.crm"}], "'back.crm' is the name of a component here"),
    ([{"external": "api.example.com", "to": "back"}], "to: is not said of an external service"),
    ([{"external": "api.example.com", "custody": "none"}], "custody: is not said of an external service"),
    ([{"external": "api.example.com", "sensitivity": "hot"}], "'hot' is none of public"),
    ([{"external": "*.example.com", "opaque": True}], "a tunnel leads to one host"),
    ([{"external": "db.example.com:1", "opaque": True, "operations": ["GET /"]}], "nothing is known of what passes"),
    ([{"external": "api.example.com", "operations": []}], "operations: allows nothing"),
    ([{"operations": ["GET /"]}], "to: missing"),
]


@pytest.mark.parametrize(("calls", "expected"), WRONG_CALLS, ids=lambda value: str(value)[:60])
def test_a_wrong_call_is_a_mistake_with_its_remedy(calls: list[dict[str, Any]], expected: str) -> None:
    assert expected in problems(document(calls))


@pytest.mark.parametrize(
    "host",
    ["", "API.example.com", "1.2.3.4", "[::1]", "a..b", "-a.b", "a_b.c", "a.b:0", "a.b:65536", "a.b:x", "*", "*.com",
     "a.*.b", "**.a.b", "https://a.b", "a.b/", "a.b:443:1", f"{'a.' * 121}a", "a.b."],
)  # fmt: skip
def test_what_is_no_host_is_refused(host: str) -> None:
    assert "external" in problems(document([{"external": host}]))


def test_a_component_that_speaks_custody_is_neither_called_nor_accepted_without() -> None:
    assert "crm/back speaks custody" in problems(document([{"to": "back", "custody": "none"}]))
    accept = [{"id": FRONT, "custody": "none"}]
    assert "crm/front speaks custody" in problems(document([{"to": "back"}], accept))
    assert parse(document(accept_from=[{"id": PROXY, "custody": "none"}])).components[1].accept_plain == (PROXY,)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ([{"custody": "none"}], "id: missing"),
        ([{"id": "no id", "custody": "none"}], "is no SPIFFE ID"),
        (["no id"], "is no SPIFFE ID"),
        ([{"id": FRONT, "who": "x"}], "who: unknown key"),
        ([FRONT, {"id": FRONT, "custody": "none"}], f"{FRONT!r} is listed twice"),
        ([FRONT, FRONT], f"{FRONT!r} is listed twice"),
        ([["x"]], "acceptFrom"),
    ],
)
def test_a_wrong_entry_of_accept_from_is_a_mistake(accept: list[Any], expected: str) -> None:
    assert expected in problems(document(accept_from=accept))


# What documents permit.


def decide(
    made: DocumentSet, caller: str, callee: str | tuple[str, int], operation: str = "GET /", **question: Any
) -> bool:
    resource = (
        {"component": callee} if isinstance(callee, str) else {"external": {"host": callee[0], "port": callee[1]}}
    )
    method, _, path = operation.partition(" ")
    asked = {
        "caller": caller, "resource": resource, "caller_documented": True, "side": "caller", "protocol": "http",
        "http": operation, "operation": operation, "method": method, "path": path, "mcp_session": False, "hop": 0,
        "chain": [caller],
    } | question  # fmt: skip
    found = PolicyEngine(encode_sets(document_sets(made), ()), encode_facts(made)).explain(asked)
    assert found["reason"] != "failed"
    return bool(found["allowed"])


OUTSIDE = parse(
    document(
        [
            {"to": "proxy", "custody": "none"},
            {"to": str(LEDGER), "name": "ledger", "custody": "none", "operations": ["GET /entries*"]},
            {"external": "api.example.com", "operations": ["POST /v1/chat"], "sensitivity": "internal"},
            {"external": "*.example.net:8443"},
            {"external": "db.example.com:5432", "opaque": True},
        ],
        [{"id": "spiffe://example.org/edge/*", "custody": "none"}, "spiffe://partner.example/*"],
    )
)


@pytest.mark.parametrize(
    ("callee", "operation", "context", "allowed"),
    [
        (PROXY, "GET /", {}, True),
        (str(LEDGER), "GET /entries/1", {}, True),
        (str(LEDGER), "POST /entries/1", {}, False),
        (f"{LEDGER}/x", "GET /entries/1", {}, False),
        (("api.example.com", 443), "POST /v1/chat", {}, True),
        (("api.example.com", 443), "POST /v1/files", {}, False),
        (("api.example.com", 8443), "POST /v1/chat", {}, False),
        (("x.api.example.com", 443), "POST /v1/chat", {}, False),
        (("a.b.example.net", 8443), "DELETE /", {}, True),
        (("example.net", 8443), "GET /", {}, False),
        (("a.example.net", 443), "GET /", {}, False),
        (("a.example.net", 8443), "CONNECT a.example.net:8443", {"protocol": "connect"}, False),
        (("db.example.com", 5432), "CONNECT db.example.com:5432", {"protocol": "connect"}, True),
        (("db.example.com", 5432), "GET /", {}, False),
    ],
)
def test_exactly_what_is_listed_outside_is_permitted(
    callee: str | tuple[str, int], operation: str, context: dict[str, Any], allowed: bool
) -> None:
    assert decide(OUTSIDE, FRONT, callee, operation, **context) is allowed


@pytest.mark.parametrize("caller", [BACK, PROXY, "spiffe://example.org/agents/other/x"])
def test_nobody_else_is_permitted_what_one_component_is(caller: str) -> None:
    for callee in (PROXY, str(LEDGER), ("api.example.com", 443), ("a.example.net", 8443)):
        assert not decide(OUTSIDE, caller, callee, "POST /v1/chat")


def test_who_may_come_without_a_record_is_permitted_that_and_who_may_not_is_not() -> None:
    table = {
        ("spiffe://example.org/edge/a", False, False): True,
        ("spiffe://example.org/edge/a", False, True): False,
        ("spiffe://partner.example/x", False, True): True,
        ("spiffe://partner.example/x", False, False): False,
        (PROXY, True, False): False,
        (FRONT, True, True): False,
    }
    for (caller, documented, recorded), allowed in table.items():
        context = {"caller_documented": documented, "recorded": recorded, "side": "callee"}
        assert decide(OUTSIDE, caller, BACK, **context) is allowed, (caller, recorded)


def test_a_documented_component_with_its_own_key_needs_not_start_to_come_without_a_record() -> None:
    made = parse(document(accept_from=[{"id": PROXY, "custody": "none"}]))
    assert decide(made, PROXY, BACK, side="callee", recorded=False)
    assert not decide(made, PROXY, BACK, side="callee", recorded=True)


def test_services_outside_are_entities_with_the_highest_sensitivity_that_a_document_gives() -> None:
    second = copy.deepcopy(document([{"external": "api.example.com", "sensitivity": "restricted"}]))
    second["metadata"]["name"] = "other"
    for uid, each in zip(itertools.count(11), second["spec"]["components"], strict=False):
        each["attest"]["uid"] = uid
        each.pop("listen", None)
    first = document(
        [{"external": "api.example.com", "sensitivity": "public"}, {"external": "plain.example"}],
    )
    files = {f"{n}.yaml": yaml.safe_dump(each).encode() for n, each in enumerate((first, second))}
    entities = document_entities(parse_documents(files, TD))
    found = {each["uid"]["id"]: each["attrs"] for each in entities if each["uid"]["type"] == "Hopseal::External"}
    assert found["api.example.com:443"] == {
        "host": "api.example.com",
        "port": 443,
        "sensitivity": "restricted",
        "sensitivity_level": 3,
    }
    assert found["plain.example:443"] == {"host": "plain.example", "port": 443}


# The broker's own settings.


def test_a_route_leads_to_a_component_or_to_a_peer_by_its_id() -> None:
    text = f"""
- {{component: crm/back, endpoints: ["b.example:8443"]}}
- {{peer: "{LEDGER}", endpoints: ["10.0.0.5:443", "[2001:db8::1]:443"]}}
"""
    routes = dict(parse_routes("routes.yaml", text.encode()))
    assert [str(each) for each in routes[str(LEDGER)]] == ["10.0.0.5:443", "[2001:db8::1]:443"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('- {peer: "spiffe://", endpoints: ["a:1"]}', "peer: "),
        (f'- {{peer: "{LEDGER}", component: crm/back, endpoints: ["a:1"]}}', "names another callee beside component"),
        (f'- {{peer: "{LEDGER}", endpoints: []}}', "must list at least one"),
    ],
)
def test_a_wrong_route_is_a_mistake(text: str, expected: str) -> None:
    with pytest.raises(SettingsInvalidError) as caught:
        parse_routes("routes.yaml", text.encode())
    assert expected in str(caught.value.mistakes[0])


def egress(text: str) -> Any:
    settings, top = parse_settings("broker.yaml", text.encode())
    found = read_egress(top.section("egress"))
    settings.finish()
    return found


def test_egress_is_the_hosts_roots_and_public_addresses_unless_said_otherwise(tmp_path: Path) -> None:
    found = egress("{}")
    assert found.encode() == {
        "ca_file": None,
        "allow_private": False,
        "tunnel_idle_ms": 300_000,
        "tunnel_life_ms": 3_600_000,
    }
    roots = tmp_path / "roots.pem"
    roots.write_text("x")
    found = egress(f"egress: {{ca_file: {roots}, allow_private: true, tunnel_idle_s: 1.5, tunnel_life_s: 60}}")
    assert found.encode() == {
        "ca_file": str(roots),
        "allow_private": True,
        "tunnel_idle_ms": 1_500,
        "tunnel_life_ms": 60_000,
    }


@pytest.mark.parametrize(
    "text",
    [
        "egress: {ca_file: /nonexistent}",
        "egress: {allow_private: maybe}",
        "egress: {tunnel_idle_s: 0}",
        "egress: {x: 1}",
    ],
)
def test_wrong_egress_settings_are_mistakes(text: str) -> None:
    with pytest.raises(SettingsInvalidError):
        egress(text)
