"""A daemon's admin socket that gives prepared answers, for tests of commands that ask it."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@dataclass
class Answers:
    """Serves ``answers`` by path; ``queries`` keeps what was asked."""

    path: Path
    answers: dict[str, Any]
    queries: list[dict[str, list[str]]] = field(default_factory=list)

    def __enter__(self) -> Self:
        scene = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                target = urlsplit(self.path)
                scene.queries.append(parse_qs(target.query))
                answer = scene.answers.get(target.path)
                body = json.dumps(answer if answer is not None else {"code": "unknown"}).encode()
                self.send_response(200 if answer is not None else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self._server = _Server(str(self.path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
