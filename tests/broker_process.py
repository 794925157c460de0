"""A real broker process with its real data plane, and small components that call and answer through it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from broker_parts import write_config
from waiting import wait_until

ROOT = Path(__file__).parent.parent

_RUN = "from broker.commands import broker_group; broker_group(prog_name='hopseal broker')"

_COMPONENT = """
import http.client, http.server, json, os, socket, socketserver, sys, threading, time

class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX); self.sock.settimeout(20); self.sock.connect(self.path_)

kept = {}
def call(out, host, method, path, body, keep, headers):
    connection = kept.get(host) or Connection("localhost")
    connection.path_ = out
    try:
        connection.request(method, path, body=body, headers={"Host": host, **headers})
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        kept.pop(host, None)
        return {"error": repr(error)}
    if keep: kept[host] = connection
    else: connection.close(); kept.pop(host, None)
    return {"status": answer.status, "body": text}

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        if data == b"stream":
            return self.stream()
        token = self.headers.get("txn-token")
        body = json.dumps({"got": data.decode(), "path": self.path, "pid": os.getpid(), "token": token}).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST
    def stream(self):
        self.send_response(200); self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked"); self.end_headers()
        try:
            while True:
                self.wfile.write(b"9\\r\\ndata: x\\n\\n\\r\\n"); time.sleep(0.02)
        except OSError:
            self.close_connection = True
    def log_message(self, *_): pass
    def address_string(self): return "unix"

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    def get_request(self):
        sock, _ = super().get_request()
        return sock, ("unix", 0)

if len(sys.argv) > 2:
    os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
if len(sys.argv) > 1 and sys.argv[1]:
    server = Server(sys.argv[1], Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(call(**json.loads(line))), flush=True)
"""


class ComponentProcess:
    """A process that calls when told, and answers on a socket if it is given one; as another user with ``uid``."""

    def __init__(self, listen: Path | None = None, *, uid: int | None = None) -> None:
        command = [sys.executable, "-c", _COMPONENT, str(listen or ""), *([] if uid is None else [str(uid)])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "ready\n"
        pidfd = os.pidfd_open(self._process.pid)
        self.inode = os.fstat(pidfd).st_ino
        self.pid = self._process.pid
        os.close(pidfd)

    def call(
        self,
        out: Path,
        host: str,
        path: str = "/items",
        *,
        method: str = "POST",
        body: str = "x",
        keep: bool = False,
        headers: dict[str, str] | None = None,
    ) -> dict:
        """One request; ``keep`` leaves its connection open for the next."""
        order = {"out": str(out), "host": host, "method": method, "path": path, "body": body, "keep": keep}
        order["headers"] = headers or {}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def _documents(line: str) -> list[dict]:
    """The JSON objects in one line: two processes that share a file may write their ends of lines late.

    What is not whole yet is not there yet.
    """
    decoder, found, at = json.JSONDecoder(), [], 0
    while line.startswith("{", at):
        try:
            document, at = decoder.raw_decode(line, at)
        except ValueError:
            break
        found.append(document)
    return found


class BrokerProcess:
    """``hopseal broker run`` as a process of its own, configured inside ``folder``."""

    def __init__(self, folder: Path, **changes: str) -> None:
        self.folder = folder
        self.config = write_config(folder, **changes)
        self.log_path = folder / "broker.log"
        self._process: subprocess.Popen | None = None

    @property
    def out(self) -> Path:
        return self.folder / "call" / "out.sock"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, *, wait: bool = True, take_over: bool = False) -> BrokerProcess:
        """Start it; with ``wait`` return once it serves."""
        arguments = ["run", "--config", str(self.config), *(["--take-over"] if take_over else [])]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-c", _RUN, *arguments], cwd=ROOT, stderr=log, stdout=log)
        seen = len(self.events("broker_started"))
        if wait:
            wait_until(
                lambda: len(self.events("broker_started")) > seen or self._process.poll() is not None,
                timeout_s=20,
                what="the broker's start",
            )
            assert self._process.poll() is None, self.log_path.read_text()
        return self

    def events(self, name: str) -> list[dict]:
        """The log lines of one event."""
        if not self.log_path.exists():
            return []
        found = [each for line in self.log_path.read_text().splitlines() for each in _documents(line)]
        return [each for each in found if each.get("event") == name]

    def get(self, path: str) -> tuple[int, bytes]:
        """GET on the admin socket."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.folder / "admin" / "admin.sock"))
        connection.request("GET", path)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self) -> dict:
        """``/v1/status``."""
        return json.loads(self.get("/v1/status")[1])

    def callee(self, component: str) -> str:
        """The state of one callee; ``unknown`` as long as no document names it."""
        states = {each["component"]: each["state"] for each in self.status()["callees"]}
        return states.get(component, "unknown")

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self._process.pid, number)

    def wait(self, timeout_s: float = 20) -> int:
        """The exit code once it ended."""
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        """End it; the exit code."""
        if self._process is None or self._process.poll() is not None:
            return -1
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
