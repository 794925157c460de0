"""A real witness process, and plain requests to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from hopseal.log.note import Signature, VerifierKey, parse_signatures, parse_vkey
from hopseal.log.witness import AddCheckpoint
from tlog_parts import LOG_KEY
from waiting import wait_until

ROOT = Path(__file__).parent.parent
NAME = "witness.example/w1"
_RUN = "from hopseal.cli.main import main; main()"


@dataclass(frozen=True)
class Answered:
    """One answer of the witness."""

    status: int
    body: bytes
    content_type: str | None

    @property
    def signatures(self) -> tuple[Signature, ...]:
        return parse_signatures(self.body.decode())


class WitnessProcess:
    """``hopseal audit witness run`` as a process of its own, configured inside ``folder``.

    Args:
        folder: for its configuration, state and output.
        logs: keys of the logs that it cosigns.
        more: further lines of its configuration.
        prelude: code that the process runs first.
        address: where it listens, on a port of its own choice.
        prefix: a command that runs it elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        logs: tuple[VerifierKey, ...] = (LOG_KEY.key,),
        *,
        more: str = "",
        prelude: str = "",
        address: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.environment: dict[str, str] = {}
        """What the process finds in its environment besides the test's own."""
        self._prefix = prefix
        self.state = folder / "state"
        self._config = folder / "witness.yaml"
        listed = "".join(f'  - key: "{key}"\n' for key in logs)
        self._config.write_text(f"name: {NAME}\nlisten: {address}:0\nstate_dir: {self.state}\nlogs:\n{listed}{more}\n")
        self._output = folder / "output"
        self._prelude = prelude
        self.process: subprocess.Popen | None = None

    def spawn(self) -> subprocess.Popen:
        """Begin to start it."""
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, "-W", "error", "-c", f"{self._prelude}\n{_RUN}", "audit", "witness",
                 "run", "--config", str(self._config)],
                stderr=output, stdout=output, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **self.environment},
            )  # fmt: skip
        return self.process

    def start(self) -> WitnessProcess:
        """Start it, and return once it serves."""
        process = self.spawn()
        wait_until(lambda: self.events("witness_started") or process.poll() is not None, what="start")
        assert process.poll() is None, self.output
        return self

    @property
    def output(self) -> str:
        return self._output.read_text()

    def events(self, name: str | None = None) -> list[dict]:
        """The events so far, all or of one name."""
        lines = self.output.splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [event for event in found if name in {None, event["event"]}]

    @property
    def port(self) -> int:
        return int(self.events("witness_started")[0]["listen"].rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://{self.events('witness_started')[0]['listen']}"

    def keep_port(self) -> None:
        """Let it have the same port when it is started again."""
        listen = urlsplit(self.url).netloc
        self._config.write_text(self._config.read_text().replace(f"{urlsplit(self.url).hostname}:0", listen))

    @property
    def keys(self) -> list[VerifierKey]:
        return [parse_vkey(text) for text in self.events("witness_started")[0]["keys"]]

    def ask(self, request: AddCheckpoint | bytes, **headers: str) -> Answered:
        """The answer to ``POST /add-checkpoint``."""
        body = request if isinstance(request, bytes) else request.encode()
        return self.http("POST", "/add-checkpoint", body, **headers)

    def http(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answered(answer.status, answer.read(), answer.getheader("Content-Type"))
        finally:
            connection.close()

    def stop(self) -> int:
        """Ask it to end, and return how it did."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        """End it as a crash would, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self if self.process else self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
