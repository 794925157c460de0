"""Components that listen on TCP in a network namespace of their own: both daemons, and who steals a port there."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestor.sock_diag import ListenersUnreadable
from attestor.tcp_listeners import connect_in, find_tcp_listeners
from broker_process import ROOT, BrokerProcess, ComponentProcess
from waiting import wait_until

_RUN = "from attestor.commands import attestor_group; attestor_group(prog_name='hopseal attestor')"
FRONT_UID, STORE_UID, STRANGER_UID = 41021, 41022, 41023

DOCUMENT = """\
apiVersion: hopseal.dev/v1alpha1
kind: Agent
metadata: {{name: crm}}
spec:
  version: 1.0.0
  description: A test
  owner: me@example.org
  team: team-a
  status: active
  components:
    - name: front
      role: orchestrator
      mayStart: true
      attest: {{exe: ["{exe}"], uid: {front}}}
      calls:
        - {{to: store, operations: [POST /items]}}
    - name: store
      role: connector
      attest: {{exe: ["{exe}"], uid: {store}}}
      listen: tcp://{host}:{port}
"""

# Told what to do line by line: listen, stop, fork; answers each request with its pid and what it is called.
SERVER = """
import http.server, json, os, signal, socket, socketserver, subprocess, sys, threading
uid, label = int(sys.argv[1]), sys.argv[2]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
os.setgid(uid); os.setuid(uid)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps({"label": label, "pid": os.getpid()}).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    def server_bind(self):
        if self.reuse: self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address); self.server_name, self.server_port = self.server_address[:2]
class Server6(Server):
    address_family = socket.AF_INET6
server = None
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "listen":
        kind = Server6 if ":" in order["host"] else Server
        kind.reuse = order.get("reuse", False)
        try:
            server = kind((order["host"], order["port"]), Handler)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            print("ok", flush=True)
        except OSError as error:
            print(error, flush=True)
    elif order["do"] == "fork":
        child = os.fork()
        if not child:
            os.setuid(os.getuid())
            signal.pause()
        print(child, flush=True)
"""


class Namespaced:
    """A process in a network namespace: its own, or that of ``beside``."""

    def __init__(self, uid: int, label: str, *, beside: Namespaced | None = None) -> None:
        enter = ["nsenter", f"--net=/proc/{beside.pid}/ns/net"] if beside else ["unshare", "--net"]
        command = [*enter, sys.executable, "-c", SERVER, str(uid), label]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.pid = self._process.pid

    def tell(self, **order: object) -> str:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def listen(self, port: int, host: str = "127.0.0.1", **options: object) -> None:
        said = self.tell(do="listen", host=host, port=port, **options)
        assert said == "ok", said

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


class Node:
    """Both daemons, a component that calls, and processes in namespaces that the test starts."""

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self.folder, self.port = folder, port
        self.broker = BrokerProcess(folder, grace_s="10", attestor_admin=str(folder / "run" / "admin.sock"))
        exe = "sha256:" + hashlib.sha256(Path(sys.executable).resolve().read_bytes()).hexdigest()
        names = {"exe": exe, "front": FRONT_UID, "store": STORE_UID, "host": host, "port": port}
        (folder / "agents" / "crm.yaml").write_text(DOCUMENT.format(**names))
        config = folder / "attestor.yaml"
        config.write_text(
            "trust_domain: example.org\nnode: node-1\n"
            f"documents: {folder}/agents\nstate_dir: {folder}/attestor\n"
            f"sockets: {{workload: {folder}/api/api.sock, broker: {folder}/run/broker.sock, "
            f"admin: {folder}/run/admin.sock}}\n"
            f"upstream: {{kind: embedded, state_dir: {folder}/authority}}\n"
            f"brokers: [{{node: node-1, attest: {{uid: 0, exe: ['{exe}']}}}}]\n"
        )
        self._log = (folder / "attestor.log").open("ab")
        command = [sys.executable, "-c", _RUN, "run", "--config", str(config)]
        self.attestor = subprocess.Popen(command, cwd=ROOT, stdout=self._log, stderr=self._log)
        self.broker.start()
        self.front = ComponentProcess(uid=FRONT_UID)
        self.started: list[Namespaced] = []

    def start(self, uid: int = STORE_UID, label: str = "store", beside: Namespaced | None = None) -> Namespaced:
        self.started.append(Namespaced(uid, label, beside=beside))
        return self.started[-1]

    def call(self) -> dict:
        return self.front.call(self.broker.out, "store.crm")

    def serves(self) -> bool:
        return self.call().get("status") == 200

    def wait_serving(self) -> None:
        wait_until(lambda: self.broker.callee("crm/store") == "attested", timeout_s=30, what="the callee")
        wait_until(self.serves, timeout_s=20, what="a call")

    def state(self) -> tuple[str, str]:
        found = self.broker.status()["callees"][0]
        return found["state"], found["code"]

    def ask(self) -> dict:
        """What the attestor answers a broker; descriptors are closed."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(10)
            asking.connect(str(self.folder / "run" / "connect.sock"))
            asking.sendall(b'{"component": "crm/store"}\n')
            data, fds, _, _ = socket.recv_fds(asking, 4096, 2)
            for fd in fds:
                os.close(fd)
            return json.loads(data)

    def close(self) -> None:
        self.broker.kill()
        for each in (self.front, *self.started):
            each.kill()
        self.attestor.kill()
        self.attestor.wait()
        self._log.close()


@pytest.fixture(params=["127.0.0.1", "[::1]"])
def host(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    folder = Path(tempfile.mkdtemp(prefix="hopseal-"))
    folder.chmod(0o777)
    host = request.getfixturevalue("host") if "host" in request.fixturenames else "127.0.0.1"
    made = Node(folder, host, 18080)
    try:
        yield made
    except AssertionError:
        print(made.broker.log_path.read_text()[-6000:], (folder / "attestor.log").read_text()[-6000:])
        raise
    finally:
        made.close()
        shutil.rmtree(folder)


def test_a_component_is_called_in_its_own_network_namespace(host: str, node: Node) -> None:
    store = node.start()
    store.listen(node.port, host.strip("[]"))
    node.wait_serving()
    answer = node.call()
    assert json.loads(answer["body"]) == {"label": "store", "pid": store.pid}
    with socket.socket(socket.AF_INET) as outside:
        assert outside.connect_ex(("127.0.0.1", node.port)) != 0


def test_the_same_port_elsewhere_is_somebody_elses(node: Node) -> None:
    other = node.start(STRANGER_UID, "stranger")
    other.listen(node.port)
    store = node.start()
    store.listen(node.port)
    node.wait_serving()
    assert {json.loads(node.call()["body"])["label"] for _ in range(10)} == {"store"}


def test_a_process_that_binds_the_port_first_is_not_called(node: Node) -> None:
    store = node.start()
    stranger = node.start(STRANGER_UID, "stranger", beside=store)
    stranger.listen(node.port)
    assert "in use" in store.tell(do="listen", host="127.0.0.1", port=node.port)
    assert node.ask()["refused"] == "listener_gone"
    answer = node.call()
    assert answer["status"] == 503, answer


def test_a_process_that_takes_the_port_after_the_component_died_is_not_called(node: Node) -> None:
    store = node.start()
    stranger = node.start(STRANGER_UID, "stranger", beside=store)
    store.listen(node.port)
    node.wait_serving()
    store.kill()
    node.started.remove(store)
    stranger.listen(node.port)
    for _ in range(5):
        assert node.call()["status"] in {502, 503}
    assert node.ask()["refused"] == "listener_gone"
    again = node.start(beside=stranger)
    assert "in use" in again.tell(do="listen", host="127.0.0.1", port=node.port)


def test_a_stranger_that_shares_the_port_is_not_called_and_nobody_is(node: Node) -> None:
    store = node.start()
    store.listen(node.port, reuse=True)
    node.wait_serving()
    # The kernel lets only processes of one user share a port: this one is the component's user, and another program.
    shared = (
        "import os, socket, sys, time\n"
        f"os.setgid({STORE_UID}); os.setuid({STORE_UID})\n"
        "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        f"s.bind(('127.0.0.1', {node.port})); s.listen(); print('ok', flush=True); time.sleep(600)\n"
    )
    other = node.folder / "python"
    shutil.copyfile(Path(sys.executable).resolve(), other)
    with other.open("ab") as file:
        file.write(b"\0")
    other.chmod(0o755)
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    command = ["nsenter", f"--net=/proc/{store.pid}/ns/net", str(other), "-c", shared]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as stranger:
        try:
            assert stranger.stdout.readline() == "ok\n"
            assert node.ask()["refused"] == "listener_foreign"
        finally:
            stranger.kill()
    wait_until(lambda: "pidfd_inode" in node.ask(), what="the component alone")


@pytest.mark.parametrize("host_", ["0.0.0.0", "::"])
def test_a_component_that_others_could_reach_is_not_called(node: Node, host_: str) -> None:
    store = node.start()
    store.listen(node.port, host_)
    wait_until(lambda: node.state() == ("refused", "listener_exposed"), timeout_s=30, what="the refusal")
    assert node.call()["status"] == 503


def test_a_component_that_forks_is_still_itself(node: Node) -> None:
    store = node.start()
    store.listen(node.port)
    node.wait_serving()
    child = int(store.tell(do="fork"))
    assert "pidfd_inode" in node.ask()
    assert node.serves()
    os.kill(child, 9)


def test_whoever_is_no_broker_gets_no_connection(node: Node) -> None:
    store = node.start()
    store.listen(node.port)
    node.wait_serving()
    run = node.folder / "run"
    run.chmod(0o777)
    (run / "connect.sock").chmod(0o777)
    code = (
        "import os, socket\n"
        f"os.setuid({FRONT_UID})\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect('{run}/connect.sock')\n"
        's.sendall(b\'{"component": "crm/store"}\\n\'); print(*socket.recv_fds(s, 4096, 4)[:2])\n'
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "refused" in got
    assert got.endswith("[]\n")
    for request in (b"{}\n", b"x\n", b'{"component": 7}\n', b'{"component": "crm/front"}\n', b'{"component": "a/b"}\n'):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(10)
            asking.connect(str(run / "connect.sock"))
            asking.sendall(request)
            data, fds, _, _ = socket.recv_fds(asking, 4096, 2)
            assert not fds
            assert not data or "refused" in json.loads(data)


SHARED = """
import os, socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(); print("ok", flush=True)
kept = []
while True:
    c, _ = s.accept(); c.send(b"%d" % os.getpid()); kept.append(c)
"""


def test_the_holder_of_a_connection_is_whoever_accepted_it() -> None:
    """Of two processes that share a port the kernel picks one for each connection; what listens tells not which."""
    first = Namespaced(0, "first")
    enter = ["nsenter", f"--net=/proc/{first.pid}/ns/net", sys.executable, "-c", SHARED, "18081"]
    sharing = [subprocess.Popen(enter, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    address = (ipaddress.IPv4Address("127.0.0.1"), 18081)
    try:
        assert [each.stdout.readline() for each in sharing] == ["ok\n"] * 2
        (place,) = find_tcp_listeners(address)
        assert len(place.inodes) == 2
        seen = set()
        for _ in range(16):
            made = connect_in(place.namespace, address)
            made.sock.setblocking(True)
            said = int(made.sock.recv(16))
            assert [holder.pid for holder in made.holders] == [said]
            seen.add(said)
            made.close()
        assert seen == {each.pid for each in sharing}
    finally:
        for each in sharing:
            each.kill()
            each.wait()
            each.stdout.close()
        first.kill()


def test_a_port_that_nobody_accepts_at_gives_no_connection() -> None:
    first = Namespaced(0, "first")
    code = (
        "import socket, time\ns = socket.socket(); s.bind(('127.0.0.1', 18082)); s.listen()\n"
        "print('ok', flush=True); time.sleep(600)"
    )
    command = ["nsenter", f"--net=/proc/{first.pid}/ns/net", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as silent:
        try:
            assert silent.stdout.readline() == "ok\n"
            address = (ipaddress.IPv4Address("127.0.0.1"), 18082)
            (place,) = find_tcp_listeners(address)
            with pytest.raises(ListenersUnreadable) as caught:
                connect_in(place.namespace, address)
            assert "nobody accepted" in caught.value.detail
        finally:
            silent.kill()
            first.kill()
    assert find_tcp_listeners(address) == []
