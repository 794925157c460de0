"""A component for the tests, standard library only: serves on a Unix socket and makes the calls it is told to make.

``POST /run`` with ``{"calls": [{"to": NAME, "path": PATH, "body": {…}, "method": "POST"}, …]}`` makes those calls one
after the other through the broker, passing its Custody-Handle on, and answers with what came back. ``--once PLAN``
makes the calls of PLAN instead of serving, as a starter of tasks does. ``--hold SECONDS`` only lives.

Usage: ``relay.py [--uid N] --out OUT_SOCK (--listen PATH | --once JSON | --hold)``
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import json
import os
import socket
import socketserver
import sys
import time
from typing import Any


class UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 to a Unix socket."""

    def __init__(self, path: str, host: str) -> None:
        super().__init__(host, timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


def call(out: str, to: str, method: str, path: str, body: Any, handle: str | None) -> dict[str, Any]:
    """One brokered call: its status, its body, and the handle that came back."""
    connection = UnixConnection(out, to)
    headers = {"content-type": "application/json", "connection": "close"}
    if handle is not None:
        headers["custody-handle"] = handle
    raw = json.dumps(body).encode() if body is not None else None
    try:
        connection.request(method, path, raw, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        given = answer.headers.get("custody-handle")
    finally:
        connection.close()
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = text
    return {"status": answer.status, "body": parsed, "handle": given}


def run(out: str, plan: dict[str, Any], handle: str | None) -> list[dict[str, Any]]:
    """Make the calls of ``plan`` in one task."""
    results = []
    for each in plan.get("calls", []):
        made = call(out, each["to"], each.get("method", "POST"), each.get("path", "/run"), each.get("body", {}), handle)
        handle = handle or made["handle"]
        results.append(made)
    return results


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One thread per connection."""

    daemon_threads = True
    request_queue_size = 128
    out = ""


class Handler(http.server.BaseHTTPRequestHandler):
    """``POST /run`` makes calls; everything else tells what was received."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", "0")))
        plan = json.loads(raw) if raw else {}
        results = run(self.server.out, plan, self.headers.get("custody-handle"))
        self._answer({"uid": os.geteuid(), "received": self._received(), "results": results})

    def do_GET(self) -> None:
        self._answer({"uid": os.geteuid(), "received": self._received()})

    def _received(self) -> dict[str, Any]:
        return {"path": self.path, "headers": [[name.lower(), value] for name, value in self.headers.items()]}

    def _answer(self, value: object) -> None:
        raw = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uid", type=int)
    parser.add_argument("--out", required=True)
    parser.add_argument("--listen")
    parser.add_argument("--once")
    parser.add_argument("--hold", action="store_true")
    chosen = parser.parse_args()
    if chosen.uid is not None:
        os.setgroups([])
        os.setresgid(chosen.uid, chosen.uid, chosen.uid)
        os.setresuid(chosen.uid, chosen.uid, chosen.uid)
    if chosen.once is not None:
        print(json.dumps(run(chosen.out, json.loads(chosen.once), None)), flush=True)
        return 0
    if chosen.listen is None:
        while True:
            time.sleep(3600)
    server = Server(chosen.listen, Handler)
    os.chmod(chosen.listen, 0o666)
    server.out = chosen.out
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
