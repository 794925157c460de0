"""What a component may ask its broker for: tasks that continue, narrower handles, approvals, what a handle is."""

from __future__ import annotations

import http.server
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dataplane_chain import three_in_a_row
from dataplane_nodes import Answer, Component, Node, Seen, answer, call, components, spiffe_id
from hopseal.custody.record import Record, SealedRecord, parse_sealed_record
from hopseal.log.entries import Direction, RecordEntry
from oauth_server import Served, issuers_json

APPROVAL = {"typ": "ticket", "id": "CHG-1", "h": "A" * 43, "by": "alice", "at": 1795348800}
Think = Callable[[Seen], Answer]


@dataclass
class Nodes:
    """The orchestrator on node a calls the reasoner on b, which calls the tool on c as ``think`` says."""

    auth: Served
    a: Node
    b: Node
    c: Node
    tool: Component
    think: Think | None = None
    answers: list[Answer] = field(default_factory=list)

    def call(self, **options: object) -> Answer:
        return call(self.a, "reasoner.crm", **options)

    def ask(self, node: Node, method: str, path: str, body: object = None, **options: object) -> Answer:
        text = b"" if body is None else json.dumps(body).encode()
        return call(node, "hopseal.local", path, method=method, body=text, **options)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with three_in_a_row(tmp_path) as row:
        for node, listens in ((row.a, {}), (row.b, row.b.listens), (row.c, row.c.listens)):
            node.plane.set_issuers(issuers_json(row.auth))
            node.plane.set_components(components(listens, may_start=("orchestrator", "reasoner")))
        made = Nodes(row.auth, row.a, row.b, row.c, row.tool)

        def respond(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
            if made.think is not None:
                made.answers.append(made.think(seen))
            answer(handler, b"")

        row.reasoner.respond = respond
        yield made


def sealed(node: Node, direction: Direction) -> list[SealedRecord]:
    entries = [each for each in node.log().entries if isinstance(each, RecordEntry) and each.direction is direction]
    return [parse_sealed_record(each.sealed) for each in entries if each.accepted]


def received(node: Node) -> list[Record]:
    return [each.record for each in sealed(node, Direction.RECEIVED)]


def test_a_task_keeps_its_claims_in_every_record(nodes: Nodes) -> None:
    task = {"id": "t-1", "iss": "https://missions.example", "ih": "A" * 43, "ah": "B" * 42 + "A", "pc": "billing"}
    opened = nodes.ask(nodes.a, "POST", "/task", {"task": task, "authority": {"hops": 1}})
    assert opened.status == 201, opened.body
    nodes.call(handle=opened.handle)
    (record,) = received(nodes.b)
    assert record.task is not None
    assert record.task.to_json() == task
    assert record.auth.hops == 1


def test_a_narrower_handle_limits_what_continues_the_chain(nodes: Nodes) -> None:
    def think(seen: Seen) -> Answer:
        handle = seen.header("Custody-Handle")
        limits = {"ops": ["POST /mcp"], "hops": 1, "aud": [spiffe_id("tool")]}
        narrow = nodes.ask(nodes.b, "POST", "/handle", {"authority": limits}, handle=handle)
        assert narrow.status == 201, narrow.body
        assert json.loads(narrow.body)["authority"]["ops"] == ["POST /mcp"]
        assert call(nodes.b, path="/other", handle=narrow.handle).code == "custody_authority"
        assert call(nodes.b, handle=handle).status == 200
        return call(nodes.b, handle=narrow.handle)

    nodes.think = think
    assert nodes.call().status == 200
    assert nodes.answers[0].status == 200
    wide, narrow = received(nodes.c)
    assert wide.att is None
    assert narrow.att.to_json() == {"hops": 1, "aud": [spiffe_id("tool")], "ops": ["POST /mcp"]}


def test_approvals_stand_in_every_later_record_and_add_up(nodes: Nodes) -> None:
    def think(seen: Seen) -> Answer:
        handle = seen.header("Custody-Handle")
        for number in range(4):
            approvals = [APPROVAL | {"id": f"CHG-{number}"}]
            made = nodes.ask(nodes.b, "POST", "/handle", {"approvals": approvals}, handle=handle)
            assert (made.status, json.loads(made.body)["approvals"]) == (201, number + 1)
            handle = made.handle
        fifth = nodes.ask(nodes.b, "POST", "/handle", {"approvals": [APPROVAL]}, handle=handle)
        assert fifth.code == "request_invalid"
        return call(nodes.b, handle=handle)

    nodes.think = think
    nodes.call()
    (record,) = received(nodes.c)
    assert [each.id for each in record.apv] == ["CHG-0", "CHG-1", "CHG-2", "CHG-3"]
    assert record.apv[0].to_json() == APPROVAL | {"id": "CHG-0"}


def test_a_narrower_handle_of_a_task_has_a_smaller_root_and_its_approvals(nodes: Nodes) -> None:
    opened = nodes.ask(nodes.a, "POST", "/task", {"authority": {"hops": 3}})
    body = {"authority": {"hops": 0}, "approvals": [APPROVAL]}
    narrow = nodes.ask(nodes.a, "POST", "/handle", body, handle=opened.handle)
    nodes.call(handle=narrow.handle)
    (record,) = received(nodes.b)
    assert (record.auth.hops, record.apv[0].id, record.att) == (0, "CHG-1", None)


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"authority": {"hops": 8}},
        {"authority": {"exp": 2_000_000_000}},
        {"authority": {"unknown": 1}},
        {"approvals": []},
        {"approvals": [{"typ": "ticket"}]},
        {"approvals": [APPROVAL | {"typ": "rumour"}]},
        {"approvals": [APPROVAL] * 5},
        {"task": {"id": "x"}},
    ],
)
def test_a_handle_that_is_wider_or_malformed_is_not_given(nodes: Nodes, body: object) -> None:
    opened = nodes.ask(nodes.a, "POST", "/task")
    refused = nodes.ask(nodes.a, "POST", "/handle", body, handle=opened.handle)
    assert (refused.status, refused.code) == (400, "request_invalid")


def test_a_handle_tells_what_it_stands_for_and_never_the_token(nodes: Nodes) -> None:
    orchestrator = spiffe_id("orchestrator")
    token = nodes.auth.exchange(nodes.auth.log_in("alice", orchestrator), orchestrator)
    nodes.think = lambda seen: nodes.ask(nodes.b, "GET", "/handle", handle=seen.header("Custody-Handle"))
    nodes.call(headers={"Txn-Token": token})
    told = json.loads(nodes.answers[0].body)
    assert (told["hop"], told["path"]) == (0, [orchestrator])
    assert (told["user"]["sub"], told["user"]["obo_verified"]) == ("alice", True)
    assert told["authority"]["scope"] == "crm.read"
    assert token.rpartition(".")[2] not in nodes.answers[0].body.decode()
    opened = nodes.ask(nodes.a, "POST", "/task", {"task": {"id": "t-9"}})
    told = json.loads(nodes.ask(nodes.a, "GET", "/handle", handle=opened.handle).body)
    assert (told["task"]["id"], told["user"], told["hop"]) == ("t-9", None, None)


@pytest.mark.parametrize(("method", "path"), [("POST", "/handle"), ("GET", "/handle")])
def test_without_a_handle_of_its_own_a_component_is_told_nothing(nodes: Nodes, method: str, path: str) -> None:
    body = {"authority": {"hops": 0}} if method == "POST" else None
    assert nodes.ask(nodes.a, method, path, body).code == "handle_unknown"
    opened = nodes.ask(nodes.a, "POST", "/task")
    assert nodes.ask(nodes.b, method, path, body, handle=opened.handle).code == "handle_unknown"


def test_other_requests_to_the_broker_are_not_found(nodes: Nodes) -> None:
    for method, path in (("GET", "/task"), ("DELETE", "/handle"), ("POST", "/tasks"), ("POST", "/task?x=1")):
        assert nodes.ask(nodes.a, method, path).code == "not_found"


def test_a_task_that_is_resumed_names_the_newest_record_of_the_one_before(nodes: Nodes) -> None:
    orchestrator = spiffe_id("orchestrator")
    token = nodes.auth.exchange(nodes.auth.log_in("alice", orchestrator), orchestrator)
    body = {"task": {"id": "t-1"}, "authority": {"aud": ["spiffe://example.org/agents/*"]}}
    opened = nodes.ask(nodes.a, "POST", "/task", body, headers={"Txn-Token": token})
    assert nodes.ask(nodes.a, "POST", "/task", {"continues": "resume"}, handle=opened.handle).code == (
        "nothing_to_continue"
    )
    nodes.call(handle=opened.handle)
    nodes.call(handle=opened.handle)
    again = nodes.ask(nodes.a, "POST", "/task", {"continues": "resume"}, handle=opened.handle)
    assert again.status == 201, again.body
    nodes.call(handle=again.handle)
    _, before, resumed = sealed(nodes.a, Direction.SENT)
    assert resumed.record.cont.to_json() == {"rec": before.hash, "cid": before.record.cid, "why": "resume"}
    assert resumed.record.cid != before.record.cid
    assert (resumed.record.task, resumed.record.obo) == (before.record.task, before.record.obo)
    assert resumed.record.auth.aud == before.record.auth.aud
    assert resumed.record.auth.exp <= int(time.time()) + 900
    assert received(nodes.b)[2].cont == resumed.record.cont


def test_a_chain_is_resumed_for_its_own_user_with_a_newer_token(nodes: Nodes) -> None:
    orchestrator = spiffe_id("orchestrator")

    def token(user: str) -> dict[str, str]:
        return {"Txn-Token": nodes.auth.exchange(nodes.auth.log_in(user, orchestrator), orchestrator)}

    opened = nodes.ask(nodes.a, "POST", "/task", headers=token("alice"))
    nodes.call(handle=opened.handle)
    resume = {"continues": "resume"}
    refused = nodes.ask(nodes.a, "POST", "/task", resume, headers=token("bob"), handle=opened.handle)
    assert refused.code == "user_token_mismatch"
    newer = token("alice")
    again = nodes.ask(nodes.a, "POST", "/task", resume, headers=newer, handle=opened.handle)
    nodes.call(handle=again.handle)
    assert nodes.auth.server.issued[-1] == newer["Txn-Token"]
    records = received(nodes.b)
    assert (records[1].obo.sub, records[1].obo.th != records[0].obo.th) == ("alice", True)
    autonomous = nodes.ask(nodes.a, "POST", "/task")
    nodes.call(handle=autonomous.handle)
    refused = nodes.ask(nodes.a, "POST", "/task", resume, headers=newer, handle=autonomous.handle)
    assert refused.code == "user_token_mismatch"


def test_what_came_from_a_queue_begins_a_root_that_names_the_delivery(nodes: Nodes) -> None:
    def think(seen: Seen) -> Answer:
        handle = seen.header("Custody-Handle")
        assert nodes.ask(nodes.b, "POST", "/task", {"continues": "resume"}, handle=handle).code == "request_invalid"
        queued = nodes.ask(nodes.b, "POST", "/task", {"continues": "queue"}, handle=handle)
        assert queued.status == 201, queued.body
        return call(nodes.b, handle=queued.handle)

    nodes.think = think
    opened = nodes.ask(nodes.a, "POST", "/task", {"task": {"id": "t-1"}, "authority": {"hops": 3}})
    nodes.call(handle=opened.handle)
    assert nodes.answers[0].status == 200
    (delivered,), (begun,) = sealed(nodes.b, Direction.RECEIVED), received(nodes.c)
    assert begun.cont.to_json() == {"rec": delivered.hash, "cid": delivered.record.cid, "why": "queue"}
    assert (begun.hop, begun.task.id, begun.auth.hops) == (0, "t-1", 2)
    assert begun.auth.exp <= delivered.record.auth.exp
    queue = {"continues": "queue"}
    assert nodes.ask(nodes.a, "POST", "/task", queue, handle=opened.handle).code == "request_invalid"


@pytest.mark.parametrize("user", ["alice", None])
def test_what_came_from_a_queue_goes_on_for_nobody_else(nodes: Nodes, user: str | None) -> None:
    """The task is one user's: another's token does not make it theirs, and nobody's task is not any user's."""
    orchestrator, reasoner = spiffe_id("orchestrator"), spiffe_id("reasoner")
    nodes.auth.register(reasoner)
    users = ("bob", "alice")
    brought = [nodes.auth.exchange(nodes.auth.log_in(name, reasoner), reasoner) for name in users]
    codes: list[object] = []

    def think(seen: Seen) -> Answer:
        handle, queue = seen.header("Custody-Handle"), {"continues": "queue"}
        for token in brought:
            got = nodes.ask(nodes.b, "POST", "/task", queue, headers={"Txn-Token": token}, handle=handle)
            codes.append(got.code or got.status)
        return got

    nodes.think = think
    own = nodes.auth.exchange(nodes.auth.log_in(user, orchestrator), orchestrator) if user else None
    opened = nodes.ask(nodes.a, "POST", "/task", headers={"Txn-Token": own} if own else None)
    nodes.call(handle=opened.handle)
    assert codes == ["user_token_mismatch", 201 if user else "user_token_mismatch"]


def test_a_root_that_continues_has_its_task_and_needs_a_handle(nodes: Nodes) -> None:
    opened = nodes.ask(nodes.a, "POST", "/task")
    nodes.call(handle=opened.handle)
    body = {"continues": "resume", "task": {"id": "other"}}
    assert nodes.ask(nodes.a, "POST", "/task", body, handle=opened.handle).code == "request_invalid"
    assert nodes.ask(nodes.a, "POST", "/task", {"continues": "resume"}).code == "handle_unknown"
    wider = {"continues": "resume", "authority": {"hops": 9}}
    assert nodes.ask(nodes.a, "POST", "/task", wider, handle=opened.handle).code == "request_invalid"
