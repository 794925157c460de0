"""hopseal serve-stdio on a real data plane: sessions, streams, who may use them, and what ends all of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import RawTestServer

from dataplane_nodes import Answer, Node, call, components
from hopseal.running import mcp_http
from hopseal.running.stdio_child import StdioChild
from hopseal.sdk.context import User
from hopseal.sdk.httpx import BrokerTransport
from svid_authority import Authority
from waiting import wait_until

SERVER = [sys.executable, str(Path(__file__).resolve().parents[1] / "stdio_server.py")]
URL = "http://tool.crm/mcp"
MEDIA = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
VERSION = "2025-06-18"


@dataclass
class Scene:
    a: Node
    b: Node
    listen: Path
    adapter: subprocess.Popen[str]

    def post(self, message: object, session: str | None = None, **options: object) -> Answer:
        headers = {**MEDIA, **({"Mcp-Session-Id": session} if session else {}), **options.pop("headers", {})}
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return call(self.a, body=body, headers=headers, **options)

    def begin(self, **options: object) -> str:
        begun = self.post(request("initialize", protocolVersion=VERSION), **options)
        assert begun.status == 200, begun.body
        return begun.headers["mcp-session-id"]

    def use(self, session: str, tool: str, **options: object) -> Answer:
        arguments, meta = options.pop("arguments", {}), options.pop("meta", {})
        return self.post(request("tools/call", name=tool, arguments=arguments, _meta=meta), session, **options)

    def text(self, session: str, tool: str, **options: object) -> str:
        return text_of(json.loads(self.use(session, tool, **options).body))

    def ended(self) -> tuple[int, str]:
        code = self.adapter.wait(20)
        return code, self.adapter.stderr.read()


def text_of(message: dict) -> str:
    return message["result"]["content"][0]["text"]


def request(method: str, number: int = 1, **params: object) -> dict:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def events(body: bytes) -> list[dict]:
    return [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: ")]


@contextlib.contextmanager
def scene_with(folder: Path, *options: str, command: list[str] | None = None) -> Iterator[Scene]:
    authority, listen = Authority("example.org"), folder / "tool.sock"
    a = Node(folder / "a", authority).start()
    b = Node(folder / "b", authority, caller="tool", listens={"tool": listen}).start()
    a.route(tool=b.port)
    adapter = subprocess.Popen(
        [sys.executable, "-m", "hopseal.cli.main", "serve-stdio", "--listen", listen, "--out-socket", b.out, *options,
         "--", *(command or SERVER)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert "MCP on" in adapter.stderr.readline()
        yield Scene(a, b, listen, adapter)
    finally:
        adapter.terminate()
        adapter.communicate(timeout=20)
        a.stop()
        b.stop()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with scene_with(tmp_path) as made:
        yield made


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_session_begins_answers_and_ends_with_its_process(scene: Scene) -> None:
    session = scene.begin()
    assert scene.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, session).status == 202
    answered = scene.post(request("ping", 7), session)
    assert (answered.headers["content-type"], json.loads(answered.body)) == (
        "application/json",
        {"jsonrpc": "2.0", "id": 7, "result": {}},
    )
    pid = int(scene.text(session, "pid"))
    assert is_running(pid)
    assert call(scene.a, method="DELETE", body=b"", headers={"Mcp-Session-Id": session}).status == 204
    wait_until(lambda: not is_running(pid), what="the server of the session is gone")
    assert scene.post(request("ping"), session).status == 404
    assert scene.adapter.poll() is None


def test_each_session_has_a_process_of_its_own(scene: Scene) -> None:
    first, second = scene.begin(), scene.begin()
    assert scene.text(first, "pid") != scene.text(second, "pid")


def test_the_server_is_told_the_handle_and_no_custody_of_the_callers_making(scene: Scene) -> None:
    forged = {"dev.hopseal/custody": {"record": "x"}, "dev.hopseal/custody-handle": "forged", "mine": 1}
    told = json.loads(scene.text(scene.begin(), "meta", meta=forged))
    assert set(told) == {"mine", "dev.hopseal/custody-handle"}
    handle = told["dev.hopseal/custody-handle"]
    asked = call(scene.b, "hopseal.local", "/handle", method="GET", body=b"", handle=handle)
    assert json.loads(asked.body)["path"] == ["spiffe://example.org/agents/crm/orchestrator"]


def test_custody_that_the_server_makes_up_does_not_leave(scene: Scene) -> None:
    assert json.loads(scene.use(scene.begin(), "custody").body)["result"]["_meta"] == {"theirs": 1}


def test_progress_comes_before_the_answer_on_the_same_stream(scene: Scene) -> None:
    answered = scene.use(scene.begin(), "slow", meta={"progressToken": "p"})
    assert answered.headers["content-type"] == "text/event-stream"
    found = events(answered.body)
    assert [each.get("params", {}).get("progress") for each in found] == [0, 1, None]
    assert text_of(found[-1]) == "done"


def test_a_question_of_the_server_is_asked_on_the_open_request_and_its_answer_comes_back(scene: Scene) -> None:
    session = scene.begin()
    with httpx.Client(transport=BrokerTransport(str(scene.a.out)), timeout=20) as client:
        body = request("tools/call", name="ask")
        with client.stream("POST", URL, json=body, headers={**MEDIA, "Mcp-Session-Id": session}) as stream:
            lines = (line[6:] for line in stream.iter_lines() if line.startswith("data: "))
            question = json.loads(next(lines))
            assert question["method"] == "sampling/createMessage"
            reply = {"jsonrpc": "2.0", "id": question["id"], "result": {"said": "yes"}}
            assert scene.post(reply, session).status == 202
            assert json.loads(text_of(json.loads(next(lines)))) == {"said": "yes"}


def first_event(stream: httpx.Response) -> dict:
    return json.loads(next(line[6:] for line in stream.iter_lines() if line.startswith("data: ")))


def test_what_the_server_says_by_itself_goes_to_whoever_listens(scene: Scene) -> None:
    session = scene.begin()
    headers = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
    with httpx.Client(transport=BrokerTransport(str(scene.a.out)), timeout=20) as client:
        with client.stream("GET", URL, headers=headers) as stream:
            assert stream.status_code == 200
            assert call(scene.a, method="GET", body=b"", headers=headers).status == 409
            assert scene.text(session, "announce") == "announced"
            assert first_event(stream)["method"] == "notifications/tools/list_changed"
        # Nobody listens: it goes with the one request that is open, or waits if none is.
        wait_until(lambda: len(events(scene.use(session, "announce").body)) == 2, what="the listener is gone")
        scene.use(session, "later")
        scene.use(session, "pid")
        with client.stream("GET", URL, headers=headers) as stream:
            assert first_event(stream)["method"] == "notifications/tools/list_changed"


def test_a_request_that_takes_long_is_answered_as_a_stream(scene: Scene) -> None:
    answered = scene.use(scene.begin(), "quiet", arguments={"seconds": 5.5}, timeout=20)
    assert answered.headers["content-type"] == "text/event-stream"
    assert text_of(events(answered.body)[-1]) == "done"


def test_a_cancelled_request_is_answered_as_cancelled(scene: Scene) -> None:
    session = scene.begin()
    body = request("tools/call", 5, name="never", _meta={"progressToken": "p"})
    headers = {**MEDIA, "Mcp-Session-Id": session}
    with (
        httpx.Client(transport=BrokerTransport(str(scene.a.out)), timeout=20) as client,
        client.stream("POST", URL, json=body, headers=headers) as stream,
    ):
        lines = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
        assert next(lines)["method"] == "notifications/progress"
        assert scene.post(body, session).status == 400  # the id is in use
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
        assert scene.post(cancel, session).status == 202
        assert next(lines)["error"]["code"] == -32800


def test_lines_that_are_no_messages_are_said_and_left_out(scene: Scene) -> None:
    assert scene.text(scene.begin(), "noise") == "done"
    assert "no message" in scene.adapter.stderr.readline()


PING = json.dumps(request("ping")).encode()


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (PING, {"Accept": "application/json"}, 406, -32600),
        (PING, {"Content-Type": "text/plain"}, 415, -32600),
        (b"{", {}, 400, -32700),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', {}, 400, -32700),
        (b"[" + PING + b"]", {}, 400, -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', {}, 400, -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', {}, 400, -32600),
        (b'{"jsonrpc":"2.0","id":1}', {}, 400, -32600),
        (PING, {"MCP-Protocol-Version": "2025-03-26"}, 400, -32600),
        (PING, {"MCP-Protocol-Version": "2026-07-28"}, 400, -32022),
    ],
)
def test_what_is_not_as_mcp_says_is_refused(scene: Scene, body: bytes, headers: dict, status: int, code: int) -> None:
    refused = scene.post(body, scene.begin(), headers=headers)
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (status, code)


def test_a_session_is_needed_known_and_begun_once(scene: Scene) -> None:
    assert scene.post(request("ping")).status == 400
    assert scene.post(request("ping"), "A" * 43).status == 404
    assert scene.post(request("initialize", protocolVersion=VERSION), scene.begin()).status == 400
    assert call(scene.a, method="PUT", headers=MEDIA).status == 405
    assert call(scene.a, path="/elsewhere", headers=MEDIA).status == 404


def test_a_server_that_refuses_to_begin_makes_no_session(scene: Scene) -> None:
    refused = scene.post(request("initialize", protocolVersion="refuse"))
    assert json.loads(refused.body)["error"]["message"] == "no"
    assert "mcp-session-id" not in refused.headers
    assert scene.adapter.poll() is None


def test_a_session_belongs_to_the_caller_that_began_it(scene: Scene, tmp_path: Path) -> None:
    session = scene.begin()
    other = Node(tmp_path / "c", scene.a.authority, caller="reasoner").start()
    try:
        for node in (other, scene.b):
            node.plane.set_components(components(node.listens, may_start=("orchestrator", "reasoner")))
        other.route(tool=scene.b.port)
        stolen = call(other, body=PING, headers={**MEDIA, "Mcp-Session-Id": session})
        assert stolen.status == 404
    finally:
        other.stop()
    assert scene.post(request("ping"), session).status == 200


def test_what_does_not_come_through_the_broker_is_refused(scene: Scene) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(scene.listen))) as client:
        for headers, code in (({}, "handle_missing"), ({"Custody-Handle": "A" * 22}, "handle_unknown")):
            refused = client.post("http://localhost/mcp", content=PING, headers={**MEDIA, **headers})
            assert (refused.status_code, refused.json()["error"]["data"]["code"]) == (403, code)


def test_one_caller_has_at_most_half_of_the_sessions_and_idle_ones_make_room(tmp_path: Path) -> None:
    with scene_with(tmp_path, "--max-sessions", "2", "--idle", "1") as scene:
        first = scene.begin()
        full = scene.post(request("initialize", protocolVersion=VERSION))
        assert (full.status, json.loads(full.body)["error"]["data"]["code"]) == (503, "mcp_sessions_full")
        wait_until(lambda: scene.post(request("initialize", protocolVersion=VERSION)).status == 200)
        assert scene.post(request("ping"), first).status == 404


async def test_a_caller_of_many_users_has_at_most_half_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    users = iter(User("https://idp.example.org", f"user-{number}", is_verified=True) for number in range(3))

    async def next_user(_: str | None) -> tuple[str, User]:
        return "spiffe://example.org/agents/crm/front", next(users)

    monkeypatch.setattr(mcp_http, "fetch_caller", next_user)
    endpoint = mcp_http.McpEndpoint(
        lambda: StdioChild.start(SERVER, os.environ), max_sessions=4, idle_s=60, says=lambda _: None
    )
    begin = request("initialize", protocolVersion=VERSION)
    try:
        async with RawTestServer(endpoint.serve) as server, ClientSession() as client:
            statuses = [
                (await client.post(server.make_url("/mcp"), json=begin, headers=MEDIA)).status for _ in range(3)
            ]
        assert statuses == [200, 200, 503]
    finally:
        await endpoint.aclose()


def test_sessions_that_begin_at_once_do_not_get_past_the_bound(tmp_path: Path) -> None:
    with scene_with(tmp_path, "--max-sessions", "4") as scene, ThreadPoolExecutor(12) as threads:
        begin = request("initialize", protocolVersion=VERSION)
        answers = list(threads.map(lambda _: scene.post(begin).status, range(12)))
        assert sorted(answers) == [200] * 2 + [503] * 10
        children = Path(f"/proc/{scene.adapter.pid}/task/{scene.adapter.pid}/children").read_text().split()
        assert len(children) == 2


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("exit", {"code": 0}, "child_exited"),
        ("exit", {"code": 3}, "child_exited"),
        ("exec", {"command": ["/bin/cat"]}, "child_executed"),
        ("exec", {"command": [*SERVER]}, "child_executed"),
        ("flood", {}, "child_garbled"),
    ],
)
def test_a_server_that_is_not_what_was_started_ends_everything(
    scene: Scene, tool: str, arguments: dict, code: str
) -> None:
    session, other = scene.begin(), scene.begin()
    pids = [int(scene.text(each, "pid")) for each in (session, other)]
    scene.use(session, tool, arguments=arguments)
    status, said = scene.ended()
    assert (status, code in said) == (1, True), said
    assert not scene.listen.exists()
    assert not any(map(is_running, pids))
    wait_until(lambda: scene.use(other, "pid").code == "callee_unavailable", what="the broker has lost it")


@pytest.mark.parametrize("launcher", ["#!/bin/sh\nexec {python} {server}\n", "#!/usr/bin/env -S {python} {server}\n"])
def test_a_launcher_executes_the_server_proper_before_it_says_anything(tmp_path: Path, launcher: str) -> None:
    script = tmp_path / "launch"
    script.write_text(launcher.format(python=SERVER[0], server=SERVER[1]))
    script.chmod(0o755)
    with scene_with(tmp_path, command=[str(script)]) as scene:
        session = scene.begin()
        assert scene.text(session, "noise") == "done"
        assert scene.adapter.poll() is None
        scene.use(session, "exec", arguments={"command": [*SERVER]})
        assert "child_executed" in scene.ended()[1]


def test_a_server_that_is_killed_ends_everything(scene: Scene) -> None:
    os.kill(int(scene.text(scene.begin(), "pid")), signal.SIGKILL)
    assert scene.ended()[0] == 1


def test_the_end_of_the_adapter_ends_the_servers_and_what_they_started(scene: Scene) -> None:
    session = scene.begin()
    pid = int(scene.text(session, "pid"))
    scene.use(session, "spawn")
    children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert children
    scene.adapter.terminate()
    assert scene.ended()[0] == 0
    wait_until(lambda: not any(map(is_running, [pid, *children])))


def test_killing_the_adapter_ends_the_servers(scene: Scene) -> None:
    pid = int(scene.text(scene.begin(), "pid"))
    scene.adapter.kill()
    wait_until(lambda: not is_running(pid))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--", "no-such-program-anywhere"], 2, "command_not_found"),
        (["--max-sessions", "0", "--", "cat"], 2, "max-sessions"),
    ],
)
def test_mistakes_on_the_command_line_are_said(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    command = [sys.executable, "-m", "hopseal.cli.main", "serve-stdio", "--listen", tmp_path / "s.sock", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_socket_that_somebody_listens_on_is_not_taken(scene: Scene) -> None:
    command = [sys.executable, "-m", "hopseal.cli.main", "serve-stdio", "--listen", scene.listen, "--", "cat"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "socket_in_use" in done.stderr) == (3, True), done.stderr
    scene.begin()


def test_without_aiohttp_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['aiohttp'] = None; from hopseal.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve-stdio", "--listen", str(tmp_path / "s.sock"), "--", "cat"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "pip install 'hopseal[aiohttp]'" in done.stderr) == (3, True), done.stderr
