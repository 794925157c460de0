"""A node under test: the two daemons as real processes, configured in a folder of their own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from waiting import wait_until

HOPSEAL = (sys.executable, "-m", "hopseal.cli.main")
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


@dataclass
class Node:
    """One attestor and one broker; ``prefix`` runs them in a namespace."""

    name: str
    folder: Path
    documents: Path
    trust_domain: str
    upstream: Mapping[str, object]
    engines: Mapping[str, Sequence[str]] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    peer_listen: str = "127.0.0.1:0"
    metrics_listen: str = "127.0.0.1:0"
    routes: Sequence[Mapping[str, object]] = ()
    reattest_interval_s: float = 10.0
    attestor_limits: Mapping[str, int] = field(default_factory=dict)
    grace_s: float = 10.0
    audit: Mapping[str, object] = field(default_factory=dict)
    environments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What one daemon, by its name, finds in its environment besides the test's own."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def agent_folder(self) -> Path:
        return self.folder / "run" / "agent"

    @property
    def call_folder(self) -> Path:
        return self.folder / "run" / "call"

    @property
    def api_socket(self) -> Path:
        return self.agent_folder / "api.sock"

    @property
    def out_socket(self) -> Path:
        return self.call_folder / "out.sock"

    @property
    def attestor_admin(self) -> Path:
        return self.folder / "run" / "attestor" / "admin.sock"

    @property
    def broker_admin(self) -> Path:
        return self.folder / "run" / "broker" / "admin.sock"

    @property
    def broker_state(self) -> Path:
        return self.folder / "state" / "broker"

    @property
    def log_folder(self) -> Path:
        return self.broker_state / "log"

    def write(self) -> None:
        """Write both configurations and the routes file."""
        for each in (self.agent_folder, self.call_folder, self.attestor_admin.parent, self.broker_admin.parent):
            each.mkdir(parents=True, exist_ok=True)
        for each in ("attestor", "broker"):
            (self.folder / "state" / each).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.write_routes(self.routes)
        _dump(self.folder / "attestor.yaml", self._attestor())
        _dump(self.folder / "broker.yaml", self._broker())

    def write_routes(self, routes: Sequence[Mapping[str, object]]) -> None:
        self.routes = routes
        _dump(self.folder / "routes.yaml", [dict(route) for route in routes])

    def start(self, *daemons: str) -> None:
        """Start ``daemons`` (both when none is named), the attestor first, each until it is ready."""
        for daemon in daemons or ("attestor", "broker"):
            self.launch(daemon)
            wait_until(lambda name=daemon: self._ready(name), timeout_s=START_TIMEOUT_S, what=f"{self.name}'s {daemon}")

    def launch(self, daemon: str) -> None:
        """Start ``daemon`` without waiting for anything."""
        command = [*self.prefix, *HOPSEAL, daemon, "run", "--config", str(self.folder / f"{daemon}.yaml")]
        environment = {**os.environ, **self.environments.get(daemon, {})}
        with (self.folder / f"{daemon}.log").open("ab") as output:
            self.processes[daemon] = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def stop(self, *daemons: str, how: int = signal.SIGTERM) -> None:
        for daemon in daemons or ("broker", "attestor"):
            process = self.processes.pop(daemon, None)
            if process is None:
                continue
            process.send_signal(how)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"{daemon} did not stop:\n{self.log(daemon)[-4000:]}") from None

    def wait_listening(self, daemon: str) -> None:
        """Wait until ``daemon`` answers operators, ready or not."""
        admin = self.attestor_admin if daemon == "attestor" else self.broker_admin
        wait_until(lambda: _listens(admin), timeout_s=START_TIMEOUT_S, what=f"{self.name}'s {daemon} listening")

    def _ready(self, daemon: str) -> bool:
        process = self.processes[daemon]
        if process.poll() is not None:
            raise AssertionError(f"{daemon} ended with {process.returncode}:\n{self.log(daemon)[-6000:]}")
        admin = self.attestor_admin if daemon == "attestor" else self.broker_admin
        return _listens(admin) and get(admin, "/readyz").status_code == httpx.codes.OK

    def log(self, daemon: str) -> str:
        path = self.folder / f"{daemon}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def events(self, daemon: str, name: str) -> list[dict[str, Any]]:
        """The structured log lines of ``daemon`` whose event is ``name``, of those that are whole by now."""
        lines = (line for line in self.log(daemon).splitlines(keepends=True) if line.startswith("{"))
        whole = (line for line in lines if line.endswith("\n"))
        return [event for event in map(json.loads, whole) if event.get("event") == name]

    def wait_published(self) -> None:
        """Wait until a checkpoint that witnesses cosigned covers every entry of the log."""

        def is_all() -> bool:
            audit = get(self.broker_admin, "/v1/status").json()["audit"]
            return bool(audit["published"] == audit["entries"] > 0)

        wait_until(is_all, timeout_s=20, what=f"a published checkpoint over {self.name}'s whole log")

    def component(self, qualified: str) -> dict[str, Any]:
        """What the attestor's status says of one component."""
        listed = get(self.attestor_admin, "/v1/status").json()["components"]
        return next(each for each in listed if each["component"] == qualified)

    def state(self, qualified: str) -> str:
        return str(self.component(qualified)["state"])

    def explain(self, qualified: str) -> dict[str, Any]:
        answer: dict[str, Any] = get(self.attestor_admin, f"/v1/explain?component={qualified}").json()
        return answer

    def wait_callable(self, qualified: str) -> None:
        """Wait until the component is attested and the broker can be called for it."""
        wait_until(lambda: self.state(qualified) == "attested", timeout_s=30, what=f"{qualified} attested")
        wait_until(lambda: self._callee(qualified) == "attested", timeout_s=30, what=f"{qualified} callable")

    def _callee(self, qualified: str) -> str | None:
        listed = get(self.broker_admin, "/v1/status").json()["callees"]
        return next((each["state"] for each in listed if each["component"] == qualified), None)

    def _attestor(self) -> dict[str, object]:
        run = self.folder / "run"
        return {
            "trust_domain": self.trust_domain,
            "node": self.name,
            "documents": str(self.documents),
            "state_dir": str(self.folder / "state" / "attestor"),
            "sockets": {
                "workload": str(self.api_socket),
                "broker": str(run / "attestor" / "broker.sock"),
                "admin": str(self.attestor_admin),
            },
            "upstream": dict(self.upstream),
            "brokers": [{"node": self.name, "attest": {"uid": os.geteuid(), "exe": [exe_digest()]}}],
            "engines": {kind: list(sockets) for kind, sockets in self.engines.items()},
            "reattest_interval_s": self.reattest_interval_s,
            "limits": dict(self.attestor_limits),
            "log": {"format": "json", "level": "info"},
        }

    def _broker(self) -> dict[str, object]:
        run = self.folder / "run"
        return {
            "trust_domain": self.trust_domain,
            "node": self.name,
            "documents": str(self.documents),
            "state_dir": str(self.folder / "state" / "broker"),
            "sockets": {"out": str(self.out_socket), "admin": str(self.broker_admin)},
            "attestor": {
                "workload_socket": str(self.api_socket),
                "broker_socket": str(run / "attestor" / "broker.sock"),
                "admin_socket": str(self.attestor_admin),
                "grace_s": self.grace_s,
            },
            "peer_listen": self.peer_listen,
            "metrics_listen": self.metrics_listen,
            "routes": str(self.folder / "routes.yaml"),
            "audit": dict(self.audit),
            "log": {"format": "json", "level": "info"},
        }


def exe_digest() -> str:
    """``sha256:…`` of the interpreter that runs the daemons."""
    return digest_of(Path(sys.executable).resolve())


def digest_of(program: Path) -> str:
    return "sha256:" + hashlib.sha256(program.read_bytes()).hexdigest()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def get(admin: Path, path: str) -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(admin)), timeout=10.0) as client:
        return client.get(f"http://hopseal.local{path}")


def post(admin: Path, path: str) -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(admin)), timeout=10.0) as client:
        return client.post(f"http://hopseal.local{path}")


@contextmanager
def running(*nodes: Node) -> Iterator[None]:
    """Start ``nodes`` and stop them, the last first."""
    try:
        for node in nodes:
            node.write()
            node.start()
        yield
    finally:
        for node in reversed(nodes):
            node.stop()


def _dump(path: Path, value: object) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False))
