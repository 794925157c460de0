"""What calls are named: by MCP's and A2A's methods, in policy, record, log and events; and what nobody can read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from dataplane_nodes import PERMIT_ALL, Node, call, pair
from hopseal.custody.jcs import canonical_hash
from hopseal.custody.record import parse_sealed_record
from hopseal.log.entries import Direction, RecordEntry

JSON = {"content-type": "application/json"}


def rpc(method: str, params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def record_of(node: Node, direction: Direction) -> RecordEntry:
    found = [each for each in node.log().entries if isinstance(each, RecordEntry) and each.direction is direction]
    return found[-1]


@pytest.mark.parametrize(
    ("body", "operation"),
    [
        (rpc("tools/call", {"name": "crm.update", "arguments": {}}), "tools/call crm.update"),
        (rpc("message/send", {"message": {"taskId": "task-1", "messageId": "m"}}), "message/send task-1"),
        (rpc("SendMessage", {"message": {"taskId": "task-1", "messageId": "m"}}), "message/send task-1"),
        (rpc("tasks/cancel", {"id": "task-1"}), "tasks/cancel task-1"),
        (rpc("GetTask", {"id": "task-1"}), "tasks/get task-1"),
        (rpc("tools/list", {}), "tools/list"),
        (b'{"model":"m"}', "POST /mcp"),
    ],
)
def test_record_log_and_events_of_both_sides_say_what_was_asked_for(
    tmp_path: Path, body: bytes, operation: str
) -> None:
    with pair(tmp_path) as (a, b, _tool):
        assert call(a, body=body, headers=JSON).status == 200
        for node, direction in ((a, Direction.SENT), (b, Direction.RECEIVED)):
            entry = record_of(node, direction)
            assert entry.op == operation
            assert parse_sealed_record(entry.sealed).record.op == operation
        assert a.wait_for_call(direction="out")["operation"] == operation
        assert b.wait_for_call(direction="in")["operation"] == operation


def test_both_logs_hold_the_hash_of_a_tools_arguments_however_they_were_written(tmp_path: Path) -> None:
    spelled = b'{ "account" : "47\\u00311", "limits": [1.0, 2e1, -0] }'
    plain = {"limits": [1, 20, 0], "account": "4711"}
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crm.update","arguments":%s}}' % spelled
    expected = canonical_hash(json.dumps(plain).encode())
    with pair(tmp_path) as (a, b, _tool):
        assert call(a, body=body, headers=JSON).status == 200
        assert [record_of(a, Direction.SENT).args_hash, record_of(b, Direction.RECEIVED).args_hash] == [expected] * 2
        assert b.wait_for_call(direction="in")["args_hash"] == expected
        assert call(a, body=rpc("tools/list", {}), headers=JSON).status == 200
        assert record_of(b, Direction.RECEIVED).args_hash is None


def test_a_policy_pins_the_arguments_of_a_call(tmp_path: Path) -> None:
    def body(amount: int) -> bytes:
        return rpc("tools/call", {"name": "pay", "arguments": {"amount": amount}})

    approved = canonical_hash(b'{"amount":7}')
    only = f'permit(principal, action, resource) when {{ context has args_hash && context.args_hash == "{approved}" }};'
    with pair(tmp_path) as (a, _b, tool):
        a.plane.set_policies(only, "[]")
        assert call(a, body=body(7), headers=JSON).status == 200
        assert call(a, body=body(8), headers=JSON).code == "policy_denied"
        assert len(tool.seen) == 1


DELETE = rpc("tools/call", {"name": "crm.delete", "arguments": {"id": 1}})
NO_DELETE = f"""{PERMIT_ALL} @id("no delete") forbid(principal, action, resource)
    when {{ context.operation like "tools/call crm.delete*" }};"""
HIDDEN = {
    "compressed": (gzip.compress(DELETE), JSON | {"content-encoding": "gzip"}, "compressed"),
    "a batch": (b"[" + DELETE + b"]", JSON, "batch"),
    "two names": (DELETE.replace(b'"name"', b'"name":"crm.list","Name"'), JSON, "two ways"),
    "not JSON": (DELETE + b"}", JSON, "not quite JSON"),
    "almost JSON that says it is text": (DELETE[:-1] + b",}", {"content-type": "text/plain"}, "not quite JSON"),
    "UTF-16": (DELETE.decode().encode("utf-16"), JSON, "encoding"),
    "numbers that readers take apart": (DELETE.replace(b": 1}}", b": 9007199254740993}}"), JSON, "not exact"),
    "a header that says another tool": (DELETE, JSON | {"mcp-name": "crm.list"}, "header"),
}


@pytest.mark.parametrize("side", ["caller", "callee"])
@pytest.mark.parametrize("kind", HIDDEN)
def test_a_call_that_hides_what_it_asks_for_is_refused_where_a_rule_forbids_some(
    tmp_path: Path, side: str, kind: str
) -> None:
    body, headers, why = HIDDEN[kind]
    with pair(tmp_path) as (a, b, tool):
        node, direction = (a, "out") if side == "caller" else (b, "in")
        assert call(a, body=body, headers=headers).status == 200
        node.plane.set_policies(NO_DELETE, "[]")
        got = call(a, body=body, headers=headers)
        assert (got.status, got.code) == (403, "operation_unreadable")
        assert len(tool.seen) == 1
        told = node.wait_for_call(direction=direction, code="operation_unreadable")
        assert '"no delete"' in told["detail"]
        assert why in told["detail"]
        assert b"no delete" not in got.body
        assert call(a, body=DELETE, headers=JSON).code in {"policy_denied", "custody_forbidden"}
        assert call(a, body=rpc("tools/call", {"name": "crm.list"}), headers=JSON).status == 200


def test_a_body_that_streams_is_refused_where_a_rule_would_have_to_read_it(tmp_path: Path) -> None:
    body = DELETE.ljust(70_000)
    with pair(tmp_path, streams="accept", body_limit_bytes=65_536, limits={"buffered_bytes": 1 << 20}) as (a, _b, tool):
        a.plane.set_policies(NO_DELETE, "[]")
        got = call(a, body=body, headers=JSON)
        assert (got.status, got.code) == (403, "operation_unreadable")
        assert "streams" in a.wait_for_call(code="operation_unreadable")["detail"]
        assert not tool.seen


def test_a_policy_knows_the_conversation_that_an_agents_message_belongs_to(tmp_path: Path) -> None:
    only = """permit(principal, action, resource) when { context.protocol == "a2a" && context has a2a_context
        && context.a2a_context == "c-1" && context has target && context.target == "task-1" };"""

    def message(**fields: str) -> bytes:
        return rpc("message/send", {"message": {"messageId": "m", **fields}})

    with pair(tmp_path) as (a, b, _tool):
        b.plane.set_policies(only, "[]")
        assert call(a, body=message(taskId="task-1", contextId="c-1"), headers=JSON).status == 200
        assert b.wait_for_call(direction="in", code="ok")["a2a_context"] == "c-1"
        for fields in ({"taskId": "task-1", "contextId": "c-2"}, {"taskId": "task-1"}, {"contextId": "c-1"}):
            assert call(a, body=message(**fields), headers=JSON).code == "custody_forbidden"
