"""One node with two agents for the fault tests: ``front`` (shell, rogue) calls ``back`` (server).

Owns: documents, processes of the components, what they tell. Does not own: the daemons (``real.nodes``).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hopseal.log.entries import Direction, RecordEntry
from hopseal.log.offline import verify_chain_offline
from hopseal.log.reader import LogContents, read_log
from real.cluster import config_root, hopseal
from real.nodes import Node, digest_of, exe_digest, get
from real.spire import SpireAgent, SpireServer, find_binaries
from waiting import wait_until

ACTOR = Path(__file__).with_name("actor.py")
TRUST_DOMAIN = "faults.example.org"
NODE = "solo"
SHELL, SERVER, ROGUE = "front/shell", "back/server", "front/rogue"
UIDS = {SHELL: 4301, SERVER: 4302}
STRANGER, STRANGER_UID = "nobody", 4399
CALLEE = "server.back"
LOAD_THREADS = 3


class Actor:
    """One process of a component, and every line that it tells."""

    def __init__(self, component: str, out: Path, *arguments: str) -> None:
        command = [
            sys.executable,
            str(ACTOR),
            "--uid",
            str(UIDS.get(component, STRANGER_UID)),
            "--out",
            str(out),
            "--to",
            CALLEE,
        ]
        self.process = subprocess.Popen([*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append({**json.loads(line), "heard": time.monotonic()})

    def wait_line(self, event: str, *, timeout_s: float = 15.0) -> dict[str, Any]:
        """The first line that tells ``event``."""

        def found() -> dict[str, Any] | None:
            return next((line for line in list(self.lines) if line.get("event") == event), None)

        wait_until(found, timeout_s=timeout_s, what=f"{event!r}, heard {self.lines[-3:]}")
        line = found()
        assert line is not None
        return line

    def call(self, **call: Any) -> dict[str, Any]:
        """Let a process that runs with ``--calls`` make one call."""
        assert self.process.stdin is not None
        told = len(self.lines)
        self.process.stdin.write(json.dumps(call).encode() + b"\n")
        self.process.stdin.flush()
        wait_until(lambda: len(self.lines) > told, timeout_s=40, what=f"an answer to {call}")
        return self.lines[told]

    def wait_answer(self, *, timeout_s: float = 20.0, **expected: Any) -> None:
        """Call until an answer is as ``expected``."""
        seen: list[dict[str, Any]] = []

        def answered() -> bool:
            seen.append(self.call())
            return all(seen[-1][key] == value for key, value in expected.items())

        try:
            wait_until(answered, timeout_s=timeout_s, what=f"an answer {expected}")
        except AssertionError as error:
            raise AssertionError(f"{error}; the last answers: {seen[-3:]}") from None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(5)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Load(Actor):
    """Calls made all the time by several threads of one caller."""

    @property
    def answers(self) -> list[dict[str, Any]]:
        return list(self.lines)

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [line for line in self.answers if line["status"] != 200]

    def wait_calls(self, count: int, *, timeout_s: float = 30.0) -> None:
        """Wait until ``count`` calls more were answered with 200 that began after now."""
        now = time.time()

        def answered() -> bool:
            return sum(line["began"] >= now and line["status"] == 200 for line in self.answers) >= count

        try:
            wait_until(answered, timeout_s=timeout_s, what=f"{count} good calls")
        except AssertionError as error:
            raise AssertionError(f"{error}; the last answers: {self.answers[-3:]}") from None


@dataclass
class OneAgent:
    """What a test sees."""

    folder: Path
    node: Node
    ttl_s: int | None = None
    may_call: bool = True
    """Whether the shell's document lists its call."""
    actors: list[Actor] = field(default_factory=list)
    server: Actor | None = None

    def config_of(self, component: str) -> Path:
        return self.folder / "config" / component / "prompt.txt"

    def start_server(self) -> None:
        """Start the serving component and wait until the node attests it."""
        socket = self.folder / "listen" / "server.sock"
        socket.unlink(missing_ok=True)
        self.server = self._start(Actor, SERVER, "--serve", str(socket))
        self.server.wait_line("serving")
        self.node.wait_callable(SERVER)

    def start_caller(self) -> Actor:
        """A shell that makes the calls it is told."""
        return self._start(Actor, SHELL, "--calls")

    def start_load(self, threads: int = LOAD_THREADS) -> Load:
        """A shell that calls all the time, once it has had good answers."""
        load = self._start(Load, SHELL, "--load", str(threads))
        load.wait_calls(5)
        return load

    def start_stream(self) -> Actor:
        """A shell that holds one endless response, once that flows."""
        actor = self._start(Actor, SHELL, "--stream", "/stream")
        assert actor.wait_line("opened")["status"] == 200
        return actor

    def start_flood(self, path: Path, count: int) -> Actor:
        """A stranger that holds ``count`` silent connections to ``path``."""
        flood = Actor(STRANGER, path, "--flood", str(count))
        self.actors.append(flood)
        flood.wait_line("held", timeout_s=30)
        return flood

    def vanish(self, count: int) -> None:
        """Let ``count`` shells ask and end at once."""
        actor = self._start(Actor, SHELL, "--vanish", str(count))
        actor.wait_line("vanished", timeout_s=30)
        self.stop_actor(actor)

    def stop_actor(self, actor: Actor) -> None:
        actor.stop()
        self.actors.remove(actor)

    def stop_actors(self) -> None:
        for actor in [each for each in self.actors if each is not self.server]:
            self.stop_actor(actor)

    def stop(self) -> None:
        self.stop_actors()
        if self.server is not None:
            self.stop_actor(self.server)
        self.node.stop()

    def write_documents(self) -> None:
        """Both documents over the configuration files as they are now."""
        calls = [{"to": CALLEE}] if self.may_call else []
        shell = {**self._component("shell", SHELL), "mayStart": True, "calls": calls}
        rogue = {"name": "rogue", "role": "environment", "mayStart": True, "calls": [{"to": CALLEE}], "svid": "both"}
        rogue["attest"] = {"exe": [digest_of(find_binaries() / "spire-agent")]}
        server = {**self._component("server", SERVER), "listen": f"unix://{self.folder / 'listen' / 'server.sock'}"}
        for agent, components in (("front", [shell, rogue]), ("back", [server])):
            self._write_document(agent, components)

    def peer_port(self) -> int:
        """Where the running broker takes calls of peers."""
        return int(self.node.events("broker", "broker_started")[-1]["peer_port"])

    def health(self, daemon: str) -> tuple[bool, str]:
        """What ``/healthz`` and ``/v1/status`` of ``daemon`` say alike: healthy, and the problems in one text."""
        admin = self.node.attestor_admin if daemon == "attestor" else self.node.broker_admin
        answer = get(admin, "/healthz")
        status = get(admin, "/v1/status").json()
        problems = "; ".join(status["problems"])
        assert status["healthy"] == (not problems)
        return answer.status_code == 200, problems

    def wait_health(self, daemon: str, *, healthy: bool, about: str = "", timeout_s: float = 30.0) -> None:
        """Wait until ``daemon`` calls itself healthy, or unhealthy and says ``about``."""
        seen: list[tuple[bool, str]] = []

        def holds() -> bool:
            seen.append(self.health(daemon))
            return seen[-1][0] == healthy and about in seen[-1][1]

        try:
            wait_until(holds, timeout_s=timeout_s, what=f"{daemon} healthy={healthy} {about!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {seen[-1:]}") from None

    def log(self) -> LogContents:
        return read_log((self.node.log_folder / "custody.log").read_bytes())

    def assert_logged(self, answers: list[dict[str, Any]]) -> None:
        """Every call that was answered with 200 stands in the log, sent and received, and the log holds."""
        contents = self.log()
        assert contents.damage == ()
        records = [each for each in contents.entries if isinstance(each, RecordEntry) and each.accepted]
        for direction in (Direction.SENT, Direction.RECEIVED):
            logged = {record.op for record in records if record.direction is direction}
            missing = {f"POST {each['path']}" for each in answers if each["status"] == 200} - logged
            assert not missing, (direction, len(missing), sorted(missing)[:5])

    def assert_chains_verify(self, most: int = 8) -> None:
        """Chains from all over the log, the last one among them, verify from it alone."""
        entries = self.log().entries
        records = [each for each in entries if isinstance(each, RecordEntry) and each.accepted and each.cid]
        cids = list(dict.fromkeys(each.cid for each in reversed(records)))
        for cid in cids[:: max(1, len(cids) // most)]:
            report = verify_chain_offline(entries, cid)
            assert report.verified, report

    def _start(self, kind: type[Any], component: str, *arguments: str) -> Any:
        actor = kind(component, self.node.out_socket, *arguments)
        self.actors.append(actor)
        return actor

    def _component(self, name: str, qualified: str) -> dict[str, Any]:
        prompt = self.config_of(qualified)
        config = {"files": [str(prompt)], "digest": [config_root(prompt)]}
        component: dict[str, Any] = {"name": name, "role": "environment"}
        component["attest"] = {"uid": UIDS[qualified], "exe": [exe_digest()], "config": config}
        if self.ttl_s is not None:
            component["x509SvidTtlSeconds"] = self.ttl_s
        return component

    def _write_document(self, agent: str, components: list[dict[str, Any]]) -> None:
        spec = {
            "version": "1.0.0",
            "description": "An agent of the fault tests",
            "owner": "tests@example.org",
            "team": "tests",
            "status": "active",
            "components": components,
        }
        document = {"apiVersion": "hopseal.dev/v1alpha1", "kind": "Agent", "metadata": {"name": agent}, "spec": spec}
        replace_text(self.node.documents / f"{agent}.yaml", yaml.safe_dump(document, sort_keys=False))


def replace_text(path: Path, text: str) -> None:
    """Swap the whole file at once, as an operator's tool does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


@contextmanager
def agent_folder() -> Iterator[Path]:
    """A folder with configuration files, whose paths are short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="hf-", dir="/run"))
    folder.chmod(0o755)
    try:
        for component in UIDS:
            config = folder / "config" / component
            config.mkdir(parents=True)
            (config / "prompt.txt").write_text(f"You are {component}.\n")
        (folder / "agents").mkdir()
        (folder / "listen").mkdir()
        (folder / "listen").chmod(0o777)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def agent_on(
    folder: Path, upstream: Mapping[str, object], *, ttl_s: int | None = None, **node: Any
) -> Iterator[OneAgent]:
    """The agent on a node over ``upstream``; documents and configuration written, nothing started."""
    made = Node(NODE, folder / "node", folder / "agents", TRUST_DOMAIN, upstream, **node)
    agent = OneAgent(folder, made, ttl_s)
    agent.write_documents()
    made.write()
    try:
        yield agent
    finally:
        agent.stop()


@contextmanager
def embedded_agent(
    *, ttl_s: int | None = None, authority: Mapping[str, object] | None = None, **node: Any
) -> Iterator[OneAgent]:
    """The agent on the embedded authority, everything running."""
    with agent_folder() as folder:
        state = folder / "authority"
        upstream = {"kind": "embedded", "state_dir": str(state), **(authority or {})}
        with agent_on(folder, upstream, ttl_s=ttl_s, **node) as agent:
            agent.node.start()
            agent.start_server()
            yield agent


@dataclass
class Spire:
    """The SPIRE under a node."""

    server: SpireServer
    agent: SpireAgent

    @property
    def upstream(self) -> dict[str, object]:
        return {
            "kind": "spire-delegated",
            "workload_socket": str(self.agent.public_socket),
            "admin_socket": str(self.agent.admin_socket),
        }

    def register(self, documents: Path) -> None:
        """All entries, by the command line, as an operator would."""
        common = ["--parent", self.agent.parent_id, "--server-socket", str(self.server.socket)]
        common += ["--trust-domain", TRUST_DOMAIN, "--apply"]
        executable = str(Path(sys.executable).resolve())
        own = ["--node", NODE, "--attestor-path", executable, "--broker-uid", "0", "--broker-exe", exe_digest()]
        for arguments in (["bootstrap", *own], ["sync", "--documents", str(documents)]):
            made = hopseal("entries", *arguments, *common)
            assert made.returncode == 0, made.stdout + made.stderr


@contextmanager
def spire_for(folder: Path, **server: str) -> Iterator[Spire]:
    """A SPIRE server, started, and its agent, not yet started."""
    with ExitStack() as stack:
        authority = SpireServer(folder / "spire", trust_domain=TRUST_DOMAIN, **server)  # type: ignore[arg-type]
        stack.callback(authority.stop)
        authority.start()
        agent = SpireAgent(folder / "spire-agent", authority, node=NODE)
        stack.callback(agent.stop)
        yield Spire(authority, agent)
