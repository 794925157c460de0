"""A component for the fault tests, standard library only: serves, calls as told, makes load, holds an endless stream.

``--serve PATH``: answers every request; ``GET /stream`` never ends. ``--calls``: each line of standard input is a call
(JSON: to, method, path, body, handle), each line of standard output its answer. ``--load N``: N threads call for ever,
each call under a path of its own and in a task of its own. ``--flood N``: holds N silent connections. ``--vanish N``: N
processes ask and end before they are answered. ``--stream PATH``: opens one call and tells when it
began and when it ended.

Usage: ``actor.py --uid N --out OUT_SOCK [--to NAME] MODE``
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import json
import os
import resource
import socket
import socketserver
import sys
import threading
import time
from typing import Any

TIMEOUT_S = 30.0
BEAT_S = 0.05


class UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 to a Unix socket."""

    def __init__(self, path: str, host: str) -> None:
        super().__init__(host, timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        # Blocking, as most clients connect: with a timeout a backlog that a flood filled is EAGAIN, not a short wait.
        self.sock.connect(self._path)
        self.sock.settimeout(TIMEOUT_S)


def tell(value: dict[str, Any]) -> None:
    """One line, whole even when several threads tell at once."""
    os.write(1, json.dumps(value).encode() + b"\n")


def make_call(connection: http.client.HTTPConnection, call: dict[str, Any]) -> dict[str, Any]:
    """The answer of one call: status, code of a refusal, handle, and the marker that was sent."""
    headers = {"content-type": "application/json"}
    if call.get("handle"):
        headers["custody-handle"] = call["handle"]
    method, path = call.get("method", "POST"), call.get("path", "/run")
    body = json.dumps(call.get("body", {})).encode() if method == "POST" else None
    told = {"path": path}
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return {**told, "status": 0, "code": type(error).__name__, "handle": None}
    code = None
    if answer.headers.get("content-type", "").startswith("application/problem+json"):
        code = json.loads(text)["code"]
    return {**told, "status": answer.status, "code": code, "handle": answer.headers.get("custody-handle")}


def load(out: str, to: str, threads: int) -> None:
    """Call for ever; a connection serves a few calls, so that both kept and new connections are in use."""

    def drive(name: int) -> None:
        number = 0
        while True:
            connection = UnixConnection(out, to)
            for _ in range(5):
                number += 1
                began = time.time()
                answer = make_call(connection, {"path": f"/load/{os.getpid()}-{name}-{number}"})
                tell({**answer, "began": began, "ended": time.time()})
                if answer["status"] == 0:
                    break
            connection.close()
            time.sleep(BEAT_S)

    workers = [threading.Thread(target=drive, args=(each,), daemon=True) for each in range(threads)]
    for worker in workers:
        worker.start()
    sys.stdin.read()  # ends with the test


def flood(path: str, count: int) -> None:
    """Hold ``count`` connections; those that the other side closes stay closed."""
    held = []
    for _ in range(count):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
        else:
            held.append(connection)
    tell({"event": "held", "count": len(held)})
    sys.stdin.read()


def vanish(out: str, to: str, count: int) -> None:
    """Ask from processes that are gone when the answer comes."""
    request = f"POST /vanish HTTP/1.1\r\nHost: {to}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    children = []
    for _ in range(count):
        child = os.fork()
        if child == 0:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(out)
            connection.sendall(request)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    tell({"event": "vanished"})


def stream(out: str, to: str, path: str) -> None:
    """Open one endless response."""
    connection = UnixConnection(out, to)
    connection.request("GET", path)
    answer = connection.getresponse()
    first = answer.read1(64)
    tell({"event": "opened", "status": answer.status, "first": first.decode()})
    try:
        while answer.read1(65536):
            pass
        how = "ended"
    except (OSError, http.client.HTTPException) as error:
        how = type(error).__name__
    tell({"event": "closed", "how": how})


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One thread per connection."""

    daemon_threads = True
    request_queue_size = 128


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers; ``/stream`` for ever."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        raw = b'{"done":true}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"9\r\ndata: 1\n\n\r\n")
            self.wfile.flush()
            time.sleep(BEAT_S)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            return  # the broker went away or cut the stream

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(path: str) -> None:
    """Serve for ever."""
    server = Server(path, Handler)
    os.chmod(path, 0o666)
    tell({"event": "serving"})
    server.serve_forever()


def answer_calls(out: str, to: str) -> None:
    """Make the calls that arrive."""
    for line in sys.stdin:
        call = json.loads(line)
        connection = UnixConnection(out, call.get("to", to))
        tell(make_call(connection, call))
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--to", default="")
    parser.add_argument("--serve")
    parser.add_argument("--calls", action="store_true")
    parser.add_argument("--load", type=int)
    parser.add_argument("--flood", type=int)
    parser.add_argument("--vanish", type=int)
    parser.add_argument("--stream")
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
    os.setgroups([])
    os.setresgid(chosen.uid, chosen.uid, chosen.uid)
    os.setresuid(chosen.uid, chosen.uid, chosen.uid)
    if chosen.serve:
        serve(chosen.serve)
    elif chosen.load:
        load(chosen.out, chosen.to, chosen.load)
    elif chosen.flood:
        flood(chosen.out, chosen.flood)
    elif chosen.vanish:
        vanish(chosen.out, chosen.to, chosen.vanish)
    elif chosen.stream:
        stream(chosen.out, chosen.to, chosen.stream)
    elif chosen.calls:
        answer_calls(chosen.out, chosen.to)


if __name__ == "__main__":
    main()
