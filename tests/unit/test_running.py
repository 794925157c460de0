"""The pure parts of running programs: heads of proxy requests, MCP messages, kernel answers, the task of a run."""

from __future__ import annotations

import errno
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopseal.errors import HopsealError, InvalidError
from hopseal.running import family, run_task
from hopseal.running.bridge import find_refusal
from hopseal.running.child import environment_of
from hopseal.running.family import OpenSocket, parse_reply
from hopseal.running.heads import format_head, parse_head
from hopseal.running.mcp_messages import (
    MessageInvalidError,
    cancelled_id,
    for_child,
    format_message,
    negotiated_version,
    parse_message,
    progress_token,
    without_custody,
)
from hopseal.running.run_task import GivenHandle, RunTask
from hopseal.sdk.tasks import Task


def head(*fields: str, line: str = "POST http://tool.crm/mcp?a=b HTTP/1.1") -> bytes:
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1")


def sent(data: bytes, handle: str | None = None) -> list[str]:
    return format_head(parse_head(data), handle).decode("latin-1").split("\r\n")


def test_fields_of_the_connection_go_and_the_handle_comes() -> None:
    data = head(
        "Host: tool.crm", "Connection: keep-alive, X-A", "Proxy-Connection: keep-alive", "Keep-Alive: 5",
        "Proxy-Authorization: Basic x", "X-A: b", "Transfer-Encoding: chunked",
    )  # fmt: skip
    assert sent(data, "H1") == [
        "POST http://tool.crm/mcp?a=b HTTP/1.1", "Host: tool.crm", "X-A: b", "Transfer-Encoding: chunked",
        "Connection: close", "Custody-Handle: H1", "", "",
    ]  # fmt: skip


def test_a_handle_of_the_programs_own_stays() -> None:
    found = sent(head("custody-handle: own"), "H1")
    assert [each for each in found if "andle" in each] == ["custody-handle: own"]
    assert "Custody-Handle: " not in "\n".join(sent(head()))


@pytest.mark.parametrize(
    ("fields", "connection"),
    [
        (["Connection: Upgrade", "Upgrade: websocket"], "Connection: upgrade"),
        (["Connection: keep-alive", "connection: x, upgrade", "Upgrade: websocket"], "Connection: upgrade"),
        (["Upgrade: websocket"], "Connection: close"),
        (["Connection: Upgrade"], "Connection: close"),
    ],
)
def test_only_a_request_for_another_protocol_keeps_its_connection(fields: list[str], connection: str) -> None:
    assert connection in sent(head(*fields))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("GET /path HTTP/1.1", "not_a_proxy_request"),
        ("GET tool.crm:80 HTTP/1.1", "not_a_proxy_request"),
        ("GET ftp://tool.crm/ HTTP/1.1", "not_a_proxy_request"),
        ("GET http://tool.crm/ HTTP/2.0", "request_invalid"),
        ("GET  http://tool.crm/ HTTP/1.1", "request_invalid"),
        ("GET http://tool.crm/ x HTTP/1.1", "request_invalid"),
        ("GET http://tool.crm/\x7f HTTP/1.1", "request_invalid"),
        ("GÈT http://tool.crm/ HTTP/1.1", "request_invalid"),
        ("", "request_invalid"),
    ],
)
def test_a_line_that_asks_no_proxy_is_refused(line: str, code: str) -> None:
    with pytest.raises(InvalidError) as refused:
        parse_head(head(line=line))
    assert refused.value.code == code


def test_a_tunnel_names_a_host_and_a_port() -> None:
    assert parse_head(head(line="CONNECT api.example.org:443 HTTP/1.1")).target == "api.example.org:443"


@pytest.mark.parametrize("character", [chr(each) for each in range(256)])
def test_every_character_in_a_field_is_taken_or_refused_but_never_changed(character: str) -> None:
    allowed = character == "\t" or (" " <= character <= "~") or character >= "\x80"
    for field in (f"X: a{character}b", f"X:{character}"):
        if allowed:
            assert field in sent(head(field))
        else:
            with pytest.raises(InvalidError):
                parse_head(head(field))
    token = "!#$%&'*+.^_`|~-" + "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    if character in token:
        assert f"X{character}: a" in sent(head(f"X{character}: a"))
    elif character != ":":  # then it ends the name
        with pytest.raises(InvalidError):
            parse_head(head(f"X{character}: a"))


@given(st.binary(max_size=200))
def test_whatever_a_program_sends_is_a_head_or_invalid(data: bytes) -> None:
    for candidate in (data, b"GET http://a.b/ HTTP/1.1\r\n" + data + b"\r\n\r\n"):
        try:
            again = format_head(parse_head(candidate), "H1")
        except HopsealError:
            continue
        assert again.count(b"\r\n\r\n") == 1
        assert parse_head(again).fields[: len(parse_head(candidate).fields)] == parse_head(candidate).fields


def answer(*fields: str, status: str = "403", body: object = None) -> bytes:
    problem = {"type": "https://hopseal.dev/errors/x", "code": "x", **({} if body is None else body)}
    return "\r\n".join([f"HTTP/1.1 {status} F", *fields, "", json.dumps(problem)]).encode()


def test_a_refusal_is_found_in_the_first_bytes_of_an_answer() -> None:
    problem = "Content-Type: application/problem+json"
    refusal = find_refusal(answer("a: b", problem))
    assert refusal is not None
    assert (refusal.code, refusal.status) == ("x", 403)
    for other in (
        b"",
        b"HTTP/1.1",
        answer(),
        answer(problem, problem),
        answer(problem, status="abc"),
        answer(problem)[:-1],
    ):
        assert find_refusal(other) is None


def test_programs_are_told_of_the_bridge_in_both_cases_and_of_nothing_else() -> None:
    found = environment_of({"HTTP_PROXY": "http://old", "no_proxy": "x", "HOME": "/"}, "http://127.0.0.1:1", ["db"])
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        assert found[name] == "http://127.0.0.1:1"
    assert found["no_proxy"] == found["NO_PROXY"] == "localhost,127.0.0.1,::1,db"
    assert found["HOME"] == "/"


def reply(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def diag(state: int, inode: int) -> bytes:
    return struct.pack("=BBBB48xIIIII", 2, state, 0, 0, 0, 0, 0, 1000, inode)


def test_the_kernels_answer_names_the_socket() -> None:
    assert parse_reply(reply(20, diag(1, 4711))) == OpenSocket(4711, 1000, is_established=True)
    assert parse_reply(reply(20, diag(8, 4711))) == OpenSocket(4711, 1000, is_established=False)
    assert parse_reply(reply(2, struct.pack("=i", -errno.ENOENT))) is None


NEAR, FAR = ("127.0.0.1", 1), ("127.0.0.1", 2)


def test_only_root_looks_for_sockets_of_other_users(monkeypatch: pytest.MonkeyPatch) -> None:
    found = OpenSocket(4711, 1000, is_established=True)
    monkeypatch.setattr(family, "find_socket", lambda *_: found)
    monkeypatch.setattr(family, "descendants", lambda _: frozenset({1}))
    monkeypatch.setattr(family, "_holds", lambda pid, inode: (pid, inode) == (1, 4711))
    for own, expected in ((0, True), (1000, True), (1001, False)):
        monkeypatch.setattr("os.geteuid", lambda own=own: own)
        assert family.Family(7).holds(NEAR, FAR) is expected


def test_who_held_the_last_connection_is_looked_at_first_and_must_still_be_of_the_tree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parents, all_looks = {5: 6, 6: 7, 7: 1}, []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(family, "find_socket", lambda *_: OpenSocket(4711, 0, is_established=True))
    monkeypatch.setattr(family, "_holds", lambda pid, _: pid == 5)
    monkeypatch.setattr(family, "_parent", parents.get)
    monkeypatch.setattr(
        family, "descendants", lambda _: all_looks.append(1) or frozenset({5, 6} if 5 in parents else ())
    )
    tree = family.Family(7)
    assert tree.holds(NEAR, FAR) is tree.holds(NEAR, FAR) is True
    assert len(all_looks) == 1
    del parents[5]  # the number is now that of a process from elsewhere
    assert tree.holds(NEAR, FAR) is False


@pytest.mark.parametrize(
    ("parents", "expected"), [({5: 7}, True), ({5: 6, 6: 7}, True), ({5: 1}, False), ({5: 6, 6: 5}, False), ({}, False)]
)
def test_descent_is_shown_by_the_parents(parents: dict[int, int], expected: bool, monkeypatch) -> None:
    monkeypatch.setattr(family, "_parent", parents.get)
    assert family.is_descendant(5, 7) is expected


def test_a_socket_that_changed_hands_meanwhile_is_not_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([OpenSocket(1, 0, is_established=True), OpenSocket(2, 0, is_established=True)])
    monkeypatch.setattr(family, "find_socket", lambda *_: next(answers))
    monkeypatch.setattr(family, "descendants", lambda _: frozenset({1}))
    monkeypatch.setattr(family, "_holds", lambda *_: True)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert family.Family(7).holds(NEAR, FAR) is False


@pytest.mark.parametrize(
    "data",
    [
        b"",
        reply(20, b""),
        reply(20, diag(1, 1)[:-1]),
        reply(3, b""),
        reply(2, struct.pack("=i", -errno.EPERM)),
        reply(2, b""),
    ],
)
def test_an_answer_that_is_cut_or_a_refusal_is_an_error(data: bytes) -> None:
    with pytest.raises(OSError):
        parse_reply(data)


def rpc(**members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


@pytest.mark.parametrize(
    ("data", "is_request", "is_response", "number"),
    [
        (rpc(id=1, method="ping"), True, False, 1),
        (rpc(id="a", method="ping", params={}), True, False, "a"),
        (rpc(method="notifications/x"), False, False, None),
        (rpc(id=1, result={}), False, True, 1),
        (rpc(id=None, error={}), False, True, None),
    ],
)
def test_messages_are_told_apart(data: bytes, is_request: bool, is_response: bool, number: object) -> None:
    parsed = parse_message(data)
    assert (parsed.is_request, parsed.is_response, parsed.id) == (is_request, is_response, number)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", -32700), (b"{", -32700), (b"\xff", -32700), (b"[" * 100_000, -32700), (b'{"a":NaN}', -32700),
        (b'{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"x"}', -32700),
        (b"[]", -32600), (b"1", -32600), (b"{}", -32600), (rpc(), -32600), (rpc(id=1), -32600),
        (rpc(id=True, method="x"), -32600), (rpc(id=1.0, method="x"), -32600), (rpc(id=None, method="x"), -32600),
        (rpc(id=1, method=1), -32600), (rpc(id=1, method="x", params=[]), -32600),
        (rpc(id=1, result={}, error={}), -32600), (rpc(result={}), -32600),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused_with_json_rpcs_code(data: bytes, code: int) -> None:
    with pytest.raises(MessageInvalidError) as refused:
        parse_message(data)
    assert refused.value.rpc_code == code


@given(st.binary(max_size=100))
def test_whatever_is_sent_is_a_message_or_invalid(data: bytes) -> None:
    for candidate in (data, b'{"jsonrpc":"2.0","id":1,"method":"x","params":' + data + b"}"):
        try:
            parsed = parse_message(candidate)
            line = format_message(for_child(parsed, "H"))
        except HopsealError:
            continue
        assert b"\n" not in line


def test_numbers_that_not_every_reader_has_do_not_pass() -> None:
    with pytest.raises(MessageInvalidError):
        parse_message(b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":1e999}}')
    assert parse_message(b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":0.5}}').message["params"] == {"a": 0.5}


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_messages_are_nested_up_to_the_bound(opening: bytes, closing: bytes) -> None:
    def message(depth: int) -> bytes:
        inner = opening * (depth - 2) + b"1" + closing * (depth - 2)
        return b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":%s}}' % inner

    assert format_message(parse_message(message(128)).message)
    for depth in (129, 1000, 100_000):
        with pytest.raises(MessageInvalidError):
            parse_message(message(depth))
    assert parse_message(b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":[%s[]]}}' % (b"[]," * 200))


def test_whatever_was_read_can_be_written() -> None:
    parsed = parse_message(b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"\\ud800 \\u2028 \\r\\n"}}')
    assert parse_message(format_message(parsed.message)) == parsed


def test_the_handle_stands_in_requests_only() -> None:
    request = parse_message(rpc(id=1, method="x", params={"_meta": {"a": 1}}))
    assert for_child(request, "H")["params"] == {"_meta": {"a": 1, "dev.hopseal/custody-handle": "H"}}
    assert for_child(parse_message(rpc(id=1, method="x")), "H")["params"] == {
        "_meta": {"dev.hopseal/custody-handle": "H"}
    }
    assert for_child(parse_message(rpc(method="x")), "H") == {"jsonrpc": "2.0", "method": "x"}
    assert for_child(request, None) == request.message


def test_a_message_without_custody_is_left_as_it_is() -> None:
    message = {"params": {"_meta": {"a": 1}}, "result": []}
    assert without_custody(message) is message
    assert without_custody({"result": {"_meta": {"dev.hopseal/custody": 1, "a": 2}}}) == {"result": {"_meta": {"a": 2}}}


def test_tokens_and_cancelled_requests_are_found() -> None:
    assert progress_token({"method": "tools/call", "params": {"_meta": {"progressToken": 3}}}) == 3
    assert progress_token({"method": "notifications/progress", "params": {"progressToken": "a"}}) == "a"
    assert progress_token({"method": "x", "params": {"_meta": {"progressToken": []}}}) is None
    assert cancelled_id({"method": "notifications/cancelled", "params": {"requestId": 3}}) == 3
    assert cancelled_id({"method": "notifications/cancelled", "params": {"requestId": {}}}) is None
    assert cancelled_id({"method": "x", "params": {"requestId": 3}}) is None
    assert negotiated_version({"result": {"protocolVersion": "v"}}) == "v"
    assert negotiated_version({"error": {}}) is None


class Broker:
    """Opens and resumes tasks; ``may_resume`` as long as the chain before is alive."""

    may_resume = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    def open(self, task_id: str | None = None) -> Task:
        self.asked.append(("open", task_id))
        return Task(f"H{len(self.asked)}", task_id or "made-up", "c", 1000 * len(self.asked))

    def resume(self, handle: str | None = None) -> Task:
        self.asked.append(("resume", handle))
        if not self.may_resume:
            raise InvalidError("handle_unknown", "gone")
        return Task(f"H{len(self.asked)}", "made-up", "c", 1000 * len(self.asked))


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    monkeypatch.setattr(run_task, "open_task", made.open)
    monkeypatch.setattr(run_task, "resume_task", made.resume)
    return made


async def test_a_run_has_one_task_that_goes_on_under_a_new_chain_in_time(broker: Broker) -> None:
    now = [0.0]
    task = RunTask(clock=lambda: now[0])
    task.open()
    assert [await task.handle(), await task.handle()] == ["H1", "H1"]
    now[0] = 939
    assert await task.handle() == "H1"
    now[0] = 940
    assert await task.handle() == "H2"
    assert broker.asked == [("open", None), ("resume", "H1")]


async def test_a_run_that_was_idle_for_too_long_begins_its_task_anew(broker: Broker) -> None:
    now = [0.0]
    task = RunTask(clock=lambda: now[0])
    assert await task.handle() == "H1"
    broker.may_resume, now[0] = False, 5000
    assert await task.handle() == "H3"
    assert broker.asked == [("open", None), ("resume", "H1"), ("open", "made-up")]


async def test_a_given_handle_is_the_runs() -> None:
    assert await GivenHandle("H1").handle() == "H1"
    assert await GivenHandle(None).handle() is None
