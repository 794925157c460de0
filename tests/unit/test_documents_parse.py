"""Agent documents: what is read, and each mistake with its line, message and remedy."""

from __future__ import annotations

import copy
import ipaddress
from typing import Any

import pytest
import yaml

from hopseal.documents.grammar import GrammarError, parse_listen_address
from hopseal.documents.model import (
    AgentStatus,
    AttestBlock,
    Call,
    DocumentSet,
    DocumentsInvalidError,
    ListenProtocol,
    Role,
    SvidMode,
)
from hopseal.documents.parse import MAX_DOCUMENT_BYTES, MAX_DOCUMENTS, documents_sha256, parse_documents
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.selectors import Posture

TD = TrustDomain.parse("example.org")
A, B, C = (f"sha256:{letter * 64}" for letter in "abc")

BASE: dict[str, Any] = {
    "apiVersion": "hopseal.dev/v1alpha1",
    "kind": "Agent",
    "metadata": {"name": "crm"},
    "spec": {
        "owner": "someone@example.org",
        "capabilities": [{"name": "read", "risk": "low"}],
        "components": [
            {
                "name": "front",
                "role": "orchestrator",
                "mayStart": True,
                "attest": {"uid": 1001, "exe": [A]},
                "calls": [{"to": "back", "operations": ["POST /v1/items"]}],
            },
            {
                "name": "back",
                "role": "connector",
                "attest": {"uid": 1002, "exe": [A]},
                "listen": "unix:///run/agents/crm/back.sock",
            },
        ],
    },
}


def document(**changes: object) -> dict[str, Any]:
    """BASE with values at dotted paths replaced; a value of ``...`` removes the key."""
    made = copy.deepcopy(BASE)
    for path, value in changes.items():
        set_at(made, path, value)
    return made


def set_at(made: dict[str, Any], path: str, value: object) -> None:
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    at: Any = made
    for part in way:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value


def parse(*documents: dict[str, Any] | str, trust_domain: TrustDomain = TD) -> DocumentSet:
    files = {
        f"{index}.yaml": (each if isinstance(each, str) else yaml.safe_dump(each, sort_keys=False)).encode()
        for index, each in enumerate(documents)
    }
    return parse_documents(files, trust_domain)


def problems(*documents: dict[str, Any] | str) -> list[str]:
    with pytest.raises(DocumentsInvalidError) as caught:
        parse(*documents)
    assert caught.value.code == "documents_invalid"
    assert all(problem.line >= 1 and problem.message for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def other(name: str, uid: int) -> dict[str, Any]:
    """A document of another agent that collides with nothing in BASE."""
    made = document()
    made["metadata"]["name"] = name
    for index, component in enumerate(made["spec"]["components"]):
        component["attest"]["uid"] = uid + index
        if "listen" in component:
            component["listen"] = f"unix:///run/agents/{name}/back.sock"
    return made


def test_a_document_becomes_typed_values_with_defaults() -> None:
    agent = parse(document()).agents[0]
    front, back = agent.components
    assert (agent.name, agent.owner, agent.status, agent.file) == (
        "crm",
        "someone@example.org",
        AgentStatus.ACTIVE,
        "0.yaml",
    )
    assert front.qualified == "crm/front"
    assert front.host == "front.crm"
    assert front.role is Role.ORCHESTRATOR
    assert front.spiffe_id == SpiffeId.parse("spiffe://example.org/agents/crm/front")
    assert front.attest == (AttestBlock(exe=(A,), uid=1001),)
    assert front.calls == (Call("crm", "back", ("POST /v1/items",)),)
    assert front.may_start
    assert not back.may_start
    assert back.listen == "/run/agents/crm/back.sock"
    assert back.accept_from is None


def test_every_field_of_a_component_is_read() -> None:
    made = document()
    made["spec"]["components"][1] |= {
        "attest": [
            {
                "image": [A, B],
                "exe": [C],
                "config": {"files": ["/etc/b", "/etc/a"], "digest": [C]},
                "posture": "restricted",
                "uid": 5,
                "gid": 6,
                "unit": "crm.service",
                "containerLabels": {"z": "1", "a": "2"},
            },
            {"uid": 7, "unsafeUidOnly": True},
        ],
        "spiffeId": "spiffe://example.org/elsewhere",
        "listenHost": "crm.example.org:8080",
        "listenProtocol": "h2",
        "acceptFrom": ["spiffe://other.example/*", "spiffe://example.org/a/*", "spiffe://example.org/a/b"],
        "svid": "both",
        "hint": "main",
        "x509SvidTtlSeconds": 60,
        "jwtSvidTtlSeconds": 30,
        "tools": [{"name": "crm.lookup", "risk": "low"}],
    }
    back = parse(made).components[1]
    first, second = back.attest
    assert first.image == (A, B)
    assert first.config is not None
    assert first.config.files == ("/etc/a", "/etc/b")
    assert first.posture is Posture.RESTRICTED
    assert (first.gid, first.unit, first.container_labels) == (6, "crm.service", (("a", "2"), ("z", "1")))
    assert second == AttestBlock(uid=7, unsafe_uid_only=True)
    assert str(back.spiffe_id) == "spiffe://example.org/elsewhere"
    assert (back.listen_host, back.accept_from) == (
        "crm.example.org:8080",
        ("spiffe://other.example/*", "spiffe://example.org/a/*", "spiffe://example.org/a/b"),
    )
    assert back.listen_protocol is ListenProtocol.H2
    assert (back.svid, back.hint, back.x509_svid_ttl_s, back.jwt_svid_ttl_s) == (SvidMode.BOTH, "main", 60, 30)
    assert back.tools[0].name == "crm.lookup"


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({}, SvidMode.BROKER),
        ({"spec.components.0.calls": ...}, SvidMode.WORKLOAD_API),
        ({"spec.components.0.svid": "both"}, SvidMode.BOTH),
        ({"spec.components.0.calls": ..., "spec.components.0.svid": "broker"}, SvidMode.BROKER),
    ],
)
def test_who_holds_the_key_follows_from_calls_and_listen(changes: dict[str, Any], mode: SvidMode) -> None:
    assert parse(document(**changes)).components[0].svid is mode


def test_lookups_find_by_name_and_by_identity_and_miss_with_none() -> None:
    documents = parse(document(), other("billing", 2001))
    assert [agent.name for agent in documents.agents] == ["billing", "crm"]
    assert documents.agent("crm") is documents.agents[1]
    assert documents.agent("nobody") is None
    back = documents.component("crm/back")
    assert back is not None
    assert documents.by_spiffe_id(back.spiffe_id) is back
    assert documents.component("crm/nobody") is None
    assert documents.by_spiffe_id(SpiffeId.parse("spiffe://example.org/nobody")) is None


# Each row changes one thing; the text must occur in a problem, and there must be no other problem.
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"apiVersion": "v1"}, "apiVersion: 'v1' is none of hopseal.dev/v1alpha1"),
    ({"apiVersion": ...}, "apiVersion: missing"),
    ({"kind": "Agnet"}, "kind: 'Agnet' is none of Agent (did you mean Agent?)"),
    ({"metadata.name": "CRM"}, "'CRM' is not a DNS label"),
    ({"metadata.name": "-crm"}, "is not a DNS label"),
    ({"metadata.name": "a" * 64}, "is not a DNS label"),
    ({"metadata.name": "crm\n"}, "is not a DNS label"),
    ({"metadata.name": 7}, "metadata.name: must be text"),
    ({"metadata.colour": "red"}, "metadata.colour: unknown key"),
    ({"metadata": "crm"}, "metadata: must be a mapping"),
    ({"spec.ovner": "x"}, "spec.ovner: unknown key (did you mean owner?)"),
    ({"spec.owner": ...}, "spec.owner: missing (name the person who answers for this agent)"),
    ({"spec.owner": "  "}, "spec.owner: must be one line of printable text"),
    ({"spec.description": "two\nlines"}, "spec.description: must be one line"),
    ({"spec.version": 1.4}, "spec.version: must be text (put it in quotes)"),
    ({"spec.status": "paused"}, "spec.status: 'paused' is none of active, suspended, retired"),
    ({"spec.capabilities.0.risk": "huge"}, "spec.capabilities[0].risk: 'huge' is none of"),
    ({"spec.capabilities": [{"name": "a", "risk": "low"}, {"name": "a", "risk": "low"}]}, "'a' is listed twice"),
    ({"spec.dataAccess": [{"resource": "x"}]}, "spec.dataAccess[0].sensitivity: missing"),
    ({"spec.humanOversight": {"requiredFor": ["fly"], "approvers": ["x"]}}, "'fly' is no capability"),
    ({"spec.humanOversight": {"requiredFor": ["read"]}}, "approvers: missing"),
    ({"spec.components": []}, "spec.components: names no component"),
    ({"spec.components": "x"}, "spec.components: must be a list"),
    ({"spec.components.1.name": "Back", "spec.components.0.calls": ...}, "'Back' is not a DNS label"),
    ({"spec.components.0.role": "robot"}, "role: 'robot' is none of orchestrator, reasoning-engine"),
    ({"spec.components.0.role": ...}, "role: missing"),
    ({"spec.components.0.mayStart": "yes"}, "mayStart: must be true or false"),
    ({"spec.components.0.attest": ...}, "attest: missing"),
    ({"spec.components.0.attest": []}, "attest: has no alternative"),
    ({"spec.components.0.attest": "me"}, "attest: must be a mapping"),
    ({"spec.components.0.attest": {}}, "attests nothing that tells this process from others"),
    ({"spec.components.0.attest": {"posture": "baseline"}}, "attests nothing that tells"),
    ({"spec.components.0.attest": {"uid": 9}}, "attests nothing but a uid"),
    ({"spec.components.0.attest": {"uid": 9, "gid": 9, "posture": "baseline"}}, "attests nothing but a uid"),
    ({"spec.components.0.attest.uid": -1}, "uid: -1 is not between 0 and"),
    ({"spec.components.0.attest.uid": 2**32 - 1}, "uid: 4294967295 is not between 0 and 4294967294"),
    ({"spec.components.0.attest.gid": "staff"}, "gid: must be a whole number"),
    ({"spec.components.0.attest.posture": "strict"}, "posture: 'strict' is none of privileged, baseline, restricted"),
    ({"spec.components.0.attest.unit": "crm service"}, "is neither a systemd unit nor a cgroup path"),
    ({"spec.components.0.attest.image": ["latest"]}, "'latest' is not a digest"),
    ({"spec.components.0.attest.exe": [A.upper()]}, "is not a digest"),
    ({"spec.components.0.attest.exe": [A[:-1]]}, "is not a digest"),
    ({"spec.components.0.attest.exe": A}, "exe: must be a list"),
    ({"spec.components.0.attest.exe": [A, A]}, "is listed twice"),
    ({"spec.components.0.attest.exee": [A]}, "exee: unknown key (did you mean exe?)"),
    ({"spec.components.0.attest.config": {"files": ["etc/a"], "digest": [A]}}, "'etc/a' is not an absolute path"),
    ({"spec.components.0.attest.config": {"files": ["/etc/../a"], "digest": [A]}}, "is not an absolute path"),
    ({"spec.components.0.attest.config": {"files": ["/etc//a"], "digest": [A]}}, "is not an absolute path"),
    ({"spec.components.0.attest.config": {"files": ["/etc/a/"], "digest": [A]}}, "is not an absolute path"),
    ({"spec.components.0.attest.config": {"files": ["/etc", "/etc/a"], "digest": [A]}}, "/etc/a is reached twice"),
    ({"spec.components.0.attest.config": {"files": [], "digest": [A]}}, "config.files: missing"),
    ({"spec.components.0.attest.config": {"digest": [A]}}, "config.files: missing"),
    ({"spec.components.0.attest.config": {"files": ["/etc/a"]}}, "config.digest: missing (hopseal agents approve"),
    ({"spec.components.0.attest.config": {"files": ["/etc/a"], "digest": []}}, "config.digest: missing"),
    ({"spec.components.0.attest.config": {"files": ["/" + "a" * 4095], "digest": [A]}}, "path is too long"),
    ({"spec.components.0.attest.containerLabels": {"a=b": "c"}}, "'a=b' is not a label name"),
    (
        {
            "spec.components.0.attest.image": [f"sha256:{n:064x}" for n in range(16)],
            "spec.components.0.attest.exe": [f"sha256:{n:064x}" for n in range(17)],
        },
        "more than 256 combinations of digests",
    ),
    ({"spec.components.1.listen": "/run/x.sock"}, "is neither a Unix socket nor a loopback address"),
    ({"spec.components.1.listen": "unix://run/x.sock"}, "is neither a Unix socket nor a loopback address"),
    ({"spec.components.1.listen": "unix:///run/../x.sock"}, "is not an absolute path"),
    ({"spec.components.1.listen": "unix:///" + "a" * 107}, "socket path is too long"),
    ({"spec.components.1.listenHost": "a b"}, "'a b' is not a host"),
    ({"spec.components.0.listenHost": "a"}, "listenHost: says nothing without listen"),
    ({"spec.components.0.listenProtocol": "h1"}, "listenProtocol: says nothing without listen"),
    ({"spec.components.1.listenProtocol": "h3"}, "'h3' is none of h1, h2"),
    ({"spec.components.0.acceptFrom": []}, "acceptFrom: says nothing without listen"),
    ({"spec.components.1.acceptFrom": ["crm/front"]}, "'crm/front' is no SPIFFE ID"),
    ({"spec.components.1.acceptFrom": ["spiffe://*"]}, "is no SPIFFE ID"),
    ({"spec.components.1.acceptFrom": ["spiffe://td/a*"]}, "is no SPIFFE ID"),
    ({"spec.components.1.acceptFrom": ["spiffe://td/a//*"]}, "is no SPIFFE ID"),
    ({"spec.components.1.acceptFrom": ["*/*"]}, "is no SPIFFE ID"),
    ({"spec.components.1.spiffeId": "spiffe://example.com/x"}, "is outside the trust domain example.org"),
    ({"spec.components.1.spiffeId": "example.org/x"}, "SPIFFE ID does not start with spiffe://"),
    ({"spec.components.1.spiffeId": "spiffe://example.org/hopseal/broker/n"}, "/hopseal/ is kept for the daemons"),
    ({"spec.components.1.spiffeId": "spiffe://example.org/agents/crm/front"}, "is also that of crm/front"),
    ({"spec.components.0.listen": "unix:///run/agents/crm/back.sock"}, "is also that of crm/front"),
    ({"spec.components.1.svid": "workload-api"}, "leaves the broker without the key"),
    ({"spec.components.1.svid": "nobody"}, "svid: 'nobody' is none of broker, workload-api, both"),
    ({"spec.components.1.hint": ""}, "hint: must be text"),
    ({"spec.components.1.x509SvidTtlSeconds": 9}, "9 is not between 10 and"),
    ({"spec.components.1.tools": [{"name": "t", "risk": "low"}, {"name": "t", "risk": "low"}]}, "'t' is listed twice"),
    ({"spec.components.0.calls.0.to": "nobody"}, "agent 'crm' has no component 'nobody'"),
    ({"spec.components.0.calls.0.to": "back.billing"}, "there is no agent 'billing'"),
    ({"spec.components.0.calls.0.to": "crm/back"}, "'crm/back' is not a DNS label"),
    ({"spec.components.0.calls.0.to": "a.b.c"}, "'b.c' is not a DNS label"),
    ({"spec.components.0.calls.0.to": ...}, "to: missing"),
    ({"spec.components.0.calls": [{"to": "back"}, {"to": "back"}]}, "crm/back is listed twice"),
    ({"spec.components.0.calls.0.operations": []}, "operations: allows nothing"),
    ({"spec.components.1.name": "front", "spec.components.0.calls": ...}, "component 'front' is listed twice"),
    ({"spec.components.1.attest.uid": 1001}, "a process could be both this and crm/front"),
]


@pytest.mark.parametrize(("changes", "text"), MISTAKES, ids=[text[:60] for _, text in MISTAKES])
def test_a_mistake_is_reported_once_and_alone(changes: dict[str, Any], text: str) -> None:
    found = problems(document(**changes))
    assert len(found) == 1, found
    assert text in found[0]


@pytest.mark.parametrize(
    "operation",
    [
        "GET /",
        "POST /v1/*",
        "QUERY /x?y=1",
        "tools/call crm.*",
        "tools/call *",
        "tools/list",
        "notifications/*",
        "initialize",
        "message/send",
        "message/send task-1",
        "tasks/pushNotificationConfig/*",
    ],
)
def test_an_operation_pattern_is_kept_as_written(operation: str) -> None:
    found = parse(document(**{"spec.components.0.calls.0.operations": [operation]}))
    assert found.components[0].calls[0].operations == (operation,)


@pytest.mark.parametrize(
    "operation",
    [
        *("*", "GETT /x", "GET x", "GET", "POST /a*b", "tools/call a*b", "tools/call a b", "tools//call", "/v1"),
        *("GET  /x", " GET /x", "GET /x ", "Tools/call x", "get/ x", "POST /é", "tools/call \x7f", "a" * 257),
    ],
)
def test_a_malformed_operation_pattern_is_a_mistake(operation: str) -> None:
    found = problems(document(**{"spec.components.0.calls.0.operations": [operation]}))
    assert len(found) == 1
    assert "operation pattern" in found[0]


@pytest.mark.parametrize(
    ("operation", "written"),
    [("SendMessage", "message/send"), ("GetTask task-1", "tasks/get task-1"), ("CancelTask *", "tasks/cancel *")],
)
def test_a_method_of_a2a_1_0_is_told_its_name_in_policies(operation: str, written: str) -> None:
    found = problems(document(**{"spec.components.0.calls.0.operations": [operation]}))
    assert len(found) == 1
    assert f"write {written}: it holds for both versions" in found[0]


@pytest.mark.parametrize("character", [chr(code) for code in range(0x21)] + ["/", ".", "_", "A", "é", "\x7f", "·"])
@pytest.mark.parametrize("position", [0, 1, 3])
def test_no_other_character_enters_a_name_at_any_position(character: str, position: int) -> None:
    name = "crm"[:position] + character + "crm"[position:]
    assert problems(document(**{"metadata.name": name}))


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:8080", "tcp://[::1]:1", "tcp://127.0.0.1:65535"])
def test_a_loopback_address_is_kept_as_written_and_two_components_may_have_it(listen: str) -> None:
    found = parse(document(**{"spec.components.1.listen": listen, "spec.components.0.listen": listen}))
    assert [each.listen for each in found.components[:2]] == [listen, listen]


@pytest.mark.parametrize(
    "listen",
    [
        *("tcp://0.0.0.0:80", "tcp://[::]:80", "tcp://10.0.0.1:80", "tcp://localhost:80", "tcp://127.0.0.2:80"),
        *("tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536", "tcp://127.0.0.1:080", "tcp://::1:80"),
        *(
            "tcp://127.0.0.1:80/",
            "tcp://127.0.0.1:80 ",
            "tcp:///run/x.sock",
            "udp://127.0.0.1:80",
            "TCP://127.0.0.1:80",
        ),
    ],
)
def test_any_other_address_is_a_mistake(listen: str) -> None:
    assert len(problems(document(**{"spec.components.1.listen": listen}))) == 1


def test_two_documents_of_one_agent_name_are_refused() -> None:
    twin = other("crm", 3001)
    twin["spec"]["components"][0]["name"] = "front2"
    twin["spec"]["components"][1] |= {"name": "back2", "listen": "unix:///run/agents/crm/back2.sock"}
    twin["spec"]["components"][0]["calls"] = [{"to": "back2"}]
    assert problems(document(), twin) == [
        "1.yaml:4: metadata.name: agent 'crm' is also in 0.yaml (give one of them another name)"
    ]


def test_a_call_may_name_a_component_of_another_agent() -> None:
    made = document(**{"spec.components.0.calls.0.to": "back.billing"})
    call = parse(made, other("billing", 2001)).component("crm/front")
    assert call is not None
    assert call.calls[0].qualified == "billing/back"


def test_a_callee_in_an_unreadable_file_is_not_reported_as_nobody() -> None:
    made = document(**{"spec.components.0.calls.0.to": "back.billing"})
    found = problems(made, "metadata: [")
    assert len(found) == 1
    assert found[0].startswith("1.yaml:1: not YAML")


def test_mistakes_of_all_files_come_in_one_run() -> None:
    found = problems(document(**{"spec.owner": ..., "kind": "X"}), "- a list", "apiVersion: &a x", "\xff")
    assert len(found) >= 5
    assert {line.split(":")[0] for line in found} == {"0.yaml", "1.yaml", "2.yaml", "3.yaml"}


def test_components_of_several_agents_must_be_told_apart_too() -> None:
    found = problems(document(), other("billing", 1001))
    assert any("a process could be both this and" in line for line in found)


def test_a_retired_agent_may_attest_what_its_successor_does() -> None:
    old = other("billing", 1001)
    old["spec"]["status"] = "retired"
    assert parse(document(), old).agents[0].status is AgentStatus.RETIRED


PAIRS = [
    ({"exe": [A], "uid": 1}, {"exe": [A], "uid": 2}, True),
    ({"exe": [A], "uid": 1}, {"exe": [B], "uid": 1}, True),
    ({"exe": [A, B], "uid": 1}, {"exe": [B, C], "uid": 1}, False),
    ({"exe": [A], "unit": "a.service"}, {"exe": [A], "unit": "b.service"}, True),
    ({"exe": [A], "uid": 1}, {"exe": [A], "unit": "b.service"}, False),
    ({"exe": [A], "gid": 1}, {"exe": [A], "gid": 2}, False),
    (
        {"exe": [A], "config": {"files": ["/a"], "digest": [A]}},
        {"exe": [A], "config": {"files": ["/a"], "digest": [B]}},
        False,
    ),
    ({"image": [A]}, {"image": [B]}, True),
    ({"image": [A]}, {"image": [A]}, False),
    ({"image": [A]}, {"exe": [A]}, True),
    ({"image": [A], "gid": 1}, {"image": [A], "gid": 2}, True),
    ({"image": [A], "posture": "baseline"}, {"image": [A], "posture": "restricted"}, False),
    ({"image": [A], "containerLabels": {"x": "1"}}, {"image": [A], "containerLabels": {"x": "2"}}, True),
    ({"image": [A], "containerLabels": {"x": "1"}}, {"image": [A], "containerLabels": {"y": "2"}}, False),
    (
        {"image": [A], "config": {"files": ["/a"], "digest": [A]}},
        {"image": [A], "config": {"files": ["/a"], "digest": [B]}},
        True,
    ),
    (
        {"image": [A], "config": {"files": ["/a"], "digest": [A]}},
        {"image": [A], "config": {"files": ["/b"], "digest": [B]}},
        False,
    ),
    ([{"exe": [A], "uid": 1}, {"exe": [A], "uid": 2}], {"exe": [A], "uid": 2}, False),
]


@pytest.mark.parametrize(("first", "second", "apart"), PAIRS)
def test_two_components_must_be_told_apart_by_what_they_attest(first: Any, second: Any, apart: bool) -> None:
    made = document(**{"spec.components.0.attest": first, "spec.components.1.attest": second})
    if apart:
        assert len(parse(made).components) == 2
    else:
        found = problems(made)
        assert len(found) == 1
        assert "a process could be both this and crm/front" in found[0]


def test_a_mistake_names_the_line_of_the_entry_that_is_wrong() -> None:
    text = yaml.safe_dump(document(), sort_keys=False).replace("- POST /v1/items", "- GET /a\n      - nonsense here!*x")
    wrong = next(number for number, line in enumerate(text.splitlines(), 1) if "nonsense" in line)
    assert problems(text)[0].startswith(f"0.yaml:{wrong}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a: &x 1\nb: *x\n", "anchors, aliases and tags are not allowed"),
        ("a: !!str 1\n", "anchors, aliases and tags are not allowed"),
        ("a: !!python/object/apply:os.system [x]\n", "anchors, aliases and tags are not allowed"),
        ("<<: {a: 1}\n", "every key must be text"),
        ("1: 2\n", "every key must be text"),
        ("a: 1\na: 2\n", "a: stands here twice"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        ("a: \x00", "not YAML"),
        ("[" * 20000, "not YAML"),
        ("x" * (MAX_DOCUMENT_BYTES + 1), "larger than"),
    ],
)
def test_a_text_that_is_no_document_is_refused(text: str, message: str) -> None:
    assert any(message in line for line in problems(text))


def test_a_document_at_the_size_bound_is_read() -> None:
    text = yaml.safe_dump(document())
    padded = text + "#" * (MAX_DOCUMENT_BYTES - len(text))
    assert len(parse(padded).agents) == 1
    assert "larger than" in problems(padded + "#")[0]


def test_too_many_documents_are_refused_before_any_is_read() -> None:
    with pytest.raises(DocumentsInvalidError, match="one mistake"):
        parse_documents({f"{n}.yaml": b"" for n in range(MAX_DOCUMENTS + 1)}, TD)


def test_no_documents_are_an_empty_set() -> None:
    assert parse_documents({}, TD).agents == ()


def test_the_digest_changes_with_any_name_or_byte_and_not_with_order() -> None:
    files = {"a.yaml": b"1", "b.yaml": b"2"}
    same = dict(reversed(files.items()))
    variants = [
        {"a.yaml": b"1"},
        {"a.yaml": b"1", "b.yaml": b"3"},
        {"a.yaml": b"1", "c.yaml": b"2"},
        {"a.yaml1b.yaml": b"2"},
    ]
    assert documents_sha256(files) == documents_sha256(same)
    assert len({documents_sha256(each) for each in [files, *variants]}) == 5


def test_a_long_trust_domain_leaves_no_room_for_the_identity() -> None:
    long = TrustDomain.parse("a" * 250)
    with pytest.raises(DocumentsInvalidError) as caught:
        parse(document(), trust_domain=long)
    assert all("is longer than 256 bytes (give it a shorter spiffeId)" in str(each) for each in caught.value.problems)


@pytest.mark.parametrize(
    ("attest", "accepted"),
    [
        ({"image": [A], "forbidStaticSecrets": True}, True),
        ({"uid": 1001, "config": {"files": ["/etc/a"], "digest": [A]}, "forbidStaticSecrets": True}, True),
        ({"exe": [A], "uid": 1001, "forbidStaticSecrets": False}, True),
        ({"exe": [A], "uid": 1001, "forbidStaticSecrets": True}, False),
        ({"image": [A], "forbidStaticSecrets": "yes"}, False),
    ],
)
def test_static_secrets_are_forbidden_where_there_is_something_to_look_at(
    attest: dict[str, Any], accepted: bool
) -> None:
    made = document()
    made["spec"]["components"][0]["attest"] = attest
    if not accepted:
        with pytest.raises(DocumentsInvalidError, match="one mistake") as caught:
            parse(made)
        assert "forbidStaticSecrets" in caught.value.detail
        return
    assert parse(made).components[0].attest[0].forbid_static_secrets is attest["forbidStaticSecrets"]


@pytest.mark.parametrize("path", ["/run/agents/a.sock", "/tcp://127.0.0.1:80"])
def test_a_unix_socket_has_no_address(path: str) -> None:
    assert parse_listen_address(path) is None


def test_a_loopback_address_has_one() -> None:
    assert parse_listen_address("tcp://[::1]:8080") == (ipaddress.ip_address("::1"), 8080)
    with pytest.raises(GrammarError, match="loopback"):
        parse_listen_address("tcp://127.0.0.1:65536")
