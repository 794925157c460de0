"""hopseal run: programs that know nothing of Hopseal call through a real data plane."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataplane_nodes import Component, Node, answer, components, pair
from hopseal.custody.record import parse_sealed_record
from hopseal.log.entries import Direction, RecordEntry
from outside_servers import Service, WebAuthority, describe, service
from svid_authority import Authority
from waiting import wait_until

URL = "http://tool.crm/mcp"
HOPSEAL = [sys.executable, "-m", "hopseal.cli.main", "run"]
CURL = ["curl", "-sS", "--max-time", "10"]
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], data=b'{}').status)"


@dataclass
class Scene:
    a: Node
    b: Node
    tool: Component

    def command(self, *arguments: str) -> list[str]:
        return [*HOPSEAL, "--out-socket", str(self.a.out), *arguments]

    def run(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False, **options)

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    def tasks(self) -> list[str]:
        """The task of every call that went out, as its record has it."""
        found = [each for each in self.a.log().entries if isinstance(each, RecordEntry)]
        sent = [parse_sealed_record(each.sealed).record for each in found if each.direction is Direction.SENT]
        return [each.task.id for each in sent if each.task is not None]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with pair(tmp_path) as (a, b, tool):
        yield Scene(a, b, tool)


def test_curl_calls_a_component_without_knowing_of_it(scene: Scene) -> None:
    done = scene.run("--", *CURL, "-d", '{"a": 1}', URL)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"a": 1}', "")
    (seen,) = scene.tool.seen
    assert (seen.method, seen.path, seen.header("proxy-connection")) == ("POST", "/mcp", None)


@pytest.mark.parametrize("isolate", [(), ("--isolate",)])
def test_grandchildren_and_orphans_of_the_program_are_served(scene: Scene, isolate: tuple[str, ...], tmp_path) -> None:
    # The middle process ends before its child calls, which makes that an orphan.
    result = tmp_path / "result"
    code = (
        "import os, subprocess, sys, time\n"
        "if os.fork() == 0:\n"
        "    middle = os.getpid()\n"
        "    if os.fork() == 0:\n"
        "        while os.getppid() == middle: time.sleep(0.01)\n"
        f"        command = [sys.executable, '-c', {FETCH!r}, sys.argv[1]]\n"
        "        out = subprocess.run(command, capture_output=True, text=True)\n"
        "        open(sys.argv[2] + '.tmp', 'w').write(out.stdout + out.stderr)\n"
        "        os.rename(sys.argv[2] + '.tmp', sys.argv[2])\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "while not os.path.exists(sys.argv[2]): time.sleep(0.01)\n"
    )
    done = scene.run(*isolate, "--", sys.executable, "-c", code, URL, str(result), timeout=60)
    assert done.returncode == 0, done.stderr
    assert result.read_text() == "200\n"


def test_all_calls_of_a_run_belong_to_one_task(scene: Scene) -> None:
    done = scene.run("--task-id", "nightly", "--", *CURL, "-d", "{}", URL, URL)
    assert done.returncode == 0, done.stderr
    assert scene.tasks() == ["nightly"] * 2


def test_calls_begin_tasks_of_their_own_where_that_is_asked_for(scene: Scene) -> None:
    assert scene.run("--task-per-call", "--", *CURL, "-d", "{}", URL, URL).returncode == 0
    assert len(set(scene.tasks())) == 2


def test_a_program_may_join_a_task_that_is_open(scene: Scene) -> None:
    connection = http.client.HTTPConnection("hopseal.local")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(scene.a.out))
    connection.request("POST", "/task", json.dumps({"task": {"id": "given"}}))
    opened = connection.getresponse()
    handle = opened.getheader("custody-handle")
    opened.read()
    # This process stands for the component: handles belong to the instance, not to one of its processes.
    done = scene.run("--task", handle, "--", *CURL, "-d", "{}", URL)
    assert done.returncode == 0, done.stderr
    assert scene.tasks() == ["given"]
    connection.close()


def test_a_handle_of_the_programs_own_is_left_alone(scene: Scene) -> None:
    done = scene.run("--", *CURL, "-d", "{}", "-H", "Custody-Handle: " + "A" * 22, URL)
    assert json.loads(done.stdout)["code"] == "handle_unknown"


def test_a_process_outside_of_the_tree_gets_nothing(scene: Scene) -> None:
    running = scene.start("--", sys.executable, "-c", "import os; print(os.environ['http_proxy'], flush=True); input()",
                          stdin=subprocess.PIPE)  # fmt: skip
    try:
        port = int(running.stdout.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
            stranger.sendall(b"POST " + URL.encode() + b" HTTP/1.1\r\nHost: tool.crm\r\nContent-Length: 0\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(100) == b""
        assert scene.tool.seen == []
    finally:
        running.communicate("\n", timeout=20)


def test_a_program_in_a_network_of_its_own_reaches_nothing_else(scene: Scene) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    code = (
        "import socket, sys, urllib.request\n"
        f"assert urllib.request.urlopen({URL!r}, data=b'{{}}').status == 200\n"
        f"host, port = {address!r}.split(':')\n"
        "try: socket.create_connection((host, int(port)), 5)\n"
        "except OSError as error: print(error.strerror)\n"
    )
    inside = scene.run("--isolate", "--", sys.executable, "-c", code)
    assert inside.stdout == "Connection refused\n", inside.stderr
    outside = scene.run("--", sys.executable, "-c", code)
    assert outside.stdout == "", outside.stderr
    listener.close()


def test_a_user_without_rights_isolates_too_or_is_told_what_is_missing(scene: Scene, open_folder: Path) -> None:
    shutil.copytree(Path(__file__).parents[2] / "hopseal", open_folder / "hopseal")
    code = (
        "import subprocess, sys; sys.path.insert(0, sys.argv[1])\n"
        "from hopseal.errors import UnavailableError\n"
        "from hopseal.running.own_network import OwnNetwork\n"
        "network = OwnNetwork()\n"
        "try:\n"
        "    child = subprocess.Popen(['id', '-u'], preexec_fn=network.enter)\n"
        "except subprocess.SubprocessError:\n"
        "    pass\n"
        "try:\n"
        "    print(network.listener().getsockname(), child.wait())\n"
        "except UnavailableError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code, str(open_folder)], user=65534, group=65534, extra_groups=[],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    allowed = subprocess.run(["unshare", "-Un", "true"], user=65534, group=65534, check=False).returncode == 0
    if allowed:
        assert done.stdout == "65534\n('127.0.0.1', 3128) 0\n", done.stderr
    else:
        assert "--isolate" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_it_ends_with_the_programs_code(scene: Scene, script: str, code: int) -> None:
    assert scene.run("--", "sh", "-c", script).returncode == code


def test_a_program_that_cannot_be_started_has_the_codes_of_a_shell(scene: Scene, tmp_path: Path) -> None:
    assert scene.run("--", "no-such-program-anywhere").returncode == 127
    (tmp_path / "data").write_text("")
    assert scene.run("--", str(tmp_path / "data")).returncode == 126


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_program(scene: Scene, number: signal.Signals) -> None:
    code = (
        "import signal, sys\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(9))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    running = scene.start("--", sys.executable, "-c", code, start_new_session=True)
    assert running.stdout.readline() == "ready\n"
    running.send_signal(number)
    assert running.wait(20) == 9
    running.communicate()


def test_an_interrupt_of_the_terminal_reaches_the_program_once(scene: Scene, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "got = []\n"
        "signal.signal(signal.SIGINT, lambda *_: got.append(1))\n"
        "print('ready', flush=True)\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"  # time for a second one, if there were any
        "print('got', len(got), flush=True)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        command = scene.command("--", sys.executable, "-c", code)
        os.execv(command[0], command)
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while b"got" not in shown:
        shown += os.read(terminal, 1000)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert b"got 1" in shown
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_program_ends_when_its_bridge_is_killed(scene: Scene) -> None:
    running = scene.start(
        "--", sys.executable, "-c", "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    )
    program = int(running.stdout.readline())
    running.kill()
    running.communicate()
    wait_until(lambda: not Path(f"/proc/{program}").exists(), what="the program is gone")


def test_a_refused_call_is_explained_on_standard_error_once(scene: Scene) -> None:
    done = scene.run("--", *CURL, "http://nobody.crm/", "http://nobody.crm/again")
    assert done.stdout.count('"code":"unknown_peer"') == 2
    assert done.stderr.count("unknown_peer") == 1
    assert "→ no document names that peer" in done.stderr


def test_https_to_a_component_is_refused_with_a_hint(scene: Scene) -> None:
    done = scene.run("--", *CURL, "https://tool.crm/mcp")
    assert done.returncode == 56  # curl: the proxy refused the tunnel
    assert "CONNECT tool.crm:443" in done.stderr
    assert "called by http://" in done.stderr


def test_a_component_that_may_not_begin_tasks_is_told_so_before_its_program_starts(scene: Scene) -> None:
    scene.a.plane.set_components(components(scene.a.listens, may_start=()))
    done = scene.run("--", "sh", "-c", "echo started")
    assert (done.returncode, done.stdout) == (1, "")
    assert "may_not_start" in done.stderr
    assert "mayStart: true" in done.stderr


def test_without_a_broker_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [*HOPSEAL, "--out-socket", str(tmp_path / "none.sock"), "--", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "broker_unreachable" in done.stderr


def test_a_broker_that_goes_away_meanwhile_is_told_with_what_to_do(scene: Scene) -> None:
    shell = f"echo ready; read go; {' '.join(CURL)} -o /dev/null {URL}; true"
    running = scene.start("--", "sh", "-c", shell, stdin=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    scene.a.stop()
    _, said = running.communicate("go\n", timeout=30)
    assert "broker_unreachable" in said
    assert "hopseal broker run" in said


def test_a_large_upload_and_download_pass_as_they_are(scene: Scene) -> None:
    body = os.urandom(3 << 20)
    code = (
        "import hashlib, sys, urllib.request\n"
        "body = sys.stdin.buffer.read()\n"
        f"got = urllib.request.urlopen({URL!r}, data=body).read()\n"
        "print(got == body)\n"
    )
    done = subprocess.run(
        scene.command("--", sys.executable, "-c", code), input=body, capture_output=True, check=False, timeout=60
    )
    assert done.stdout == b"True\n", done.stderr


def test_a_stream_of_events_arrives_piece_by_piece(scene: Scene) -> None:
    go_on = threading.Event()

    def respond(handler, seen) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b"data: 1\n\n")
        handler.wfile.flush()
        assert go_on.wait(20)
        handler.wfile.write(b"data: 2\n\n")

    scene.tool.respond = respond
    running = scene.start("--", *CURL, "-N", "-d", "{}", URL)
    assert running.stdout.readline() == "data: 1\n"
    go_on.set()
    assert "data: 2\n" in running.communicate(timeout=20)[0]
    assert running.returncode == 0


def test_a_program_that_hangs_up_ends_its_call(scene: Scene) -> None:
    begun, ended = threading.Event(), threading.Event()

    def respond(handler, seen) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        begun.set()
        try:
            while True:
                handler.wfile.write(b"1\r\nx\r\n")
                time.sleep(0.01)
        except OSError:
            ended.set()

    scene.tool.respond = respond
    code = "import subprocess, sys\nsubprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\ninput()\n"
    running = scene.start(
        "--", sys.executable, "-c", code, "curl", "-sN", "--max-time", "1", URL, stdin=subprocess.PIPE
    )
    assert begun.wait(20)
    assert ended.wait(20)
    running.communicate("\n", timeout=20)


def test_a_program_that_resets_its_connection_is_nothing_to_report(scene: Scene) -> None:
    code = (
        "import os, socket, struct, sys, time, urllib.parse\n"
        "at = urllib.parse.urlsplit(os.environ['http_proxy'])\n"
        "for delay in (0, 0.05, 0.5):\n"
        "    s = socket.create_connection((at.hostname, at.port))\n"
        "    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n"
        "    s.sendall(b'GET http://tool.crm/ HTTP/1.1\\r\\nHost: tool.crm\\r\\n\\r\\n')\n"
        "    time.sleep(delay)\n"
        "    s.close()\n"
        "time.sleep(0.5)\n"
    )
    done = scene.run("--", sys.executable, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_connection_carries_one_request_and_what_follows_is_none(scene: Scene) -> None:
    code = (
        "import os, socket, urllib.parse\n"
        "at = urllib.parse.urlsplit(os.environ['http_proxy'])\n"
        "s = socket.create_connection((at.hostname, at.port))\n"
        "s.sendall(b'GET http://tool.crm/%d HTTP/1.1\\r\\nHost: tool.crm\\r\\n\\r\\n' % 1 +\n"
        "          b'GET http://tool.crm/%d HTTP/1.1\\r\\nHost: tool.crm\\r\\n\\r\\n' % 2)\n"
        "print(s.makefile('rb').read().count(b'HTTP/1.1 '))\n"
    )
    done = scene.run("--", sys.executable, "-c", code)
    assert done.stdout == "1\n", done.stderr
    assert [seen.path for seen in scene.tool.seen] == ["/1"]


def test_a_request_that_is_none_is_refused_by_the_bridge(scene: Scene) -> None:
    code = (
        "import os, socket, sys, urllib.parse\n"
        "at = urllib.parse.urlsplit(os.environ['http_proxy'])\n"
        "s = socket.create_connection((at.hostname, at.port))\n"
        "s.sendall(sys.argv[1].encode().decode('unicode_escape').encode('latin-1'))\n"
        "print(s.makefile('rb').read().decode())\n"
    )
    for request, code_of in (
        ("GET /path HTTP/1.1\\r\\n\\r\\n", "not_a_proxy_request"),
        ("PRI * HTTP/2.0\\r\\n\\r\\n", "request_invalid"),
        ("GET http://tool.crm/ HTTP/1.1\\r\\nA: b\\n c\\r\\n\\r\\n", "request_invalid"),
        ("GET http://tool.crm/ HTTP/1.1\\r\\nX: " + "y" * 40_000 + "\\r\\n\\r\\n", "head_too_large"),
    ):
        done = scene.run("--", sys.executable, "-c", code, request)
        assert code_of in done.stdout, (request[:50], done.stdout, done.stderr)
    assert scene.tool.seen == []


def test_a_component_that_answers_with_a_problem_of_its_own_is_not_called_refused(scene: Scene) -> None:
    def respond(handler, seen) -> None:
        answer(handler, b'{"code": "theirs"}', 400, {"Content-Type": "application/problem+json"})

    scene.tool.respond = respond
    done = scene.run("--", *CURL, "-d", "{}", URL)
    assert (done.stdout, done.stderr) == ('{"code": "theirs"}', "")


@pytest.mark.parametrize("opaque", [False, True])
def test_services_outside_are_called_by_http_or_through_a_tunnel(tmp_path: Path, opaque: bool) -> None:
    web = WebAuthority(tmp_path)
    with Service(web, alpn="http/1.1") as server:
        settings = {"egress": {"ca_file": str(web.ca_file), "allow_private": True}}
        node = Node(tmp_path / "a", Authority("example.org"), settings=settings).start()
        try:
            describe(node, {"orchestrator": {"services": [service(port=server.port, opaque=opaque)]}})
            curl = [*CURL, "--noproxy", "", "--cacert", str(web.ca_file)]  # curl goes to localhost directly otherwise
            command = [*HOPSEAL, "--out-socket", str(node.out), "--task-id", "outside", "--", *curl]
            url = f"{'https' if opaque else 'http'}://localhost:{server.port}/v1"
            done = subprocess.run([*command, url], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout) == (0, "from outside"), done.stderr
            node.wait_for_call(direction="out", code="ok", kind="tunnel" if opaque else "external")
            (record,) = (each for each in node.log().entries if isinstance(each, RecordEntry))
            assert parse_sealed_record(record.sealed).record.task.id == "outside"
            other = f"{'http' if opaque else 'https'}://localhost:{server.port}/v1"
            refused = subprocess.run([*command, other], capture_output=True, text=True, check=False)
            assert "from outside" not in refused.stdout
            assert "localhost" in refused.stderr
        finally:
            node.stop()
