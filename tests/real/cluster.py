"""Two nodes in two network namespaces on one real SPIRE, with the components of one agent spread over them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from broker.audit.log_signer import KEY_NAME, load_log_signer
from real.netns import Namespace, connected_namespaces
from real.nodes import HOPSEAL, Node, digest_of, exe_digest
from real.spire import SpireAgent, SpireServer, find_binaries
from witness_process import WitnessProcess

RELAY = Path(__file__).with_name("relay.py")
TRUST_DOMAIN = "cluster.example.org"
PARENT = f"spiffe://{TRUST_DOMAIN}/node/all"
AGENT = "crm"
PEER_PORT = 8443


@dataclass(frozen=True, slots=True)
class Part:
    """One component of the test agent: where it runs and whom it calls."""

    name: str
    node: int
    uid: int
    calls: tuple[str, ...] = ()
    may_start: bool = False
    program: Path | None = None
    """Attested by its digest and nothing else; the relay under its own uid if None."""

    @property
    def qualified(self) -> str:
        return f"{AGENT}/{self.name}"


PARTS = (
    Part("shell", 0, 4101, ("orchestrator",), may_start=True),
    Part("orchestrator", 0, 4102, ("reasoner", "connector")),
    Part("reasoner", 1, 4103, ("connector",)),
    Part("connector", 1, 4104),
    Part("rogue", 1, 0, ("connector",), may_start=True, program=find_binaries() / "spire-agent"),
)
"""``rogue`` is SPIRE's own client: a component that holds its key itself and so can say on the wire what it likes."""

THREE_HOPS: Mapping[str, Any] = {
    "calls": [
        {
            "to": "orchestrator",
            "body": {"calls": [{"to": "reasoner", "body": {"calls": [{"to": "connector"}]}}, {"to": "connector"}]},
        }
    ]
}
"""shell → orchestrator → reasoner → connector, and orchestrator → connector."""


@dataclass
class Cluster:
    """What a test sees of it."""

    folder: Path
    nodes: Sequence[Node]
    spaces: Sequence[Namespace]
    server: SpireServer
    witness: WitnessProcess | None = None
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def part(self, name: str) -> Part:
        return next(part for part in PARTS if part.name == name)

    def node_of(self, name: str) -> Node:
        return self.nodes[self.part(name).node]

    def config_of(self, name: str) -> Path:
        return self.folder / "config" / name / "prompt.txt"

    def start_part(self, name: str) -> None:
        """Start one serving component and wait until its node attests it."""
        part = self.part(name)
        (self.folder / self.nodes[part.node].name / "listen" / f"{name}.sock").unlink(missing_ok=True)
        socket = self.folder / "listen" / f"{name}.sock"
        self.processes[name] = subprocess.Popen(self._command(part, "--listen", str(socket)), text=True)
        self.node_of(name).wait_callable(part.qualified)

    def stop_part(self, name: str) -> None:
        process = self.processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def task(self, plan: Mapping[str, Any], *, starter: str = "shell") -> list[dict[str, Any]]:
        """Let ``starter`` open a task with the calls of ``plan``."""
        command = self._command(self.part(starter), "--once", json.dumps(plan))
        made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=40)
        assert made.returncode == 0, made.stderr
        results: list[dict[str, Any]] = json.loads(made.stdout)
        return results

    def _command(self, part: Part, *arguments: str) -> list[str]:
        node = self.nodes[part.node]
        own = ["--uid", str(part.uid), "--out", str(node.out_socket), *arguments]
        return [*node.prefix, sys.executable, str(RELAY), *own]


def hopseal(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run([*HOPSEAL, *arguments], capture_output=True, text=True, check=False, timeout=60)


@contextmanager
def two_nodes(*, witnessed: bool = False, svid_ttl_s: int | None = None) -> Iterator[Cluster]:
    """The cluster, with every component attested.

    Args:
        witnessed: a witness on a third host cosigns both nodes' logs.
        svid_ttl_s: lifetime of the components' SVIDs.
    """
    folder = Path(tempfile.mkdtemp(prefix="hs-", dir="/run"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        spaces = stack.enter_context(connected_namespaces(3 if witnessed else 2))
        documents = _write_documents(folder, svid_ttl_s)
        server = SpireServer(
            folder / "server", trust_domain=TRUST_DOMAIN, bind_address=spaces[0].address, prefix=spaces[0].enter
        )
        stack.callback(server.stop)
        server.start()
        nodes = [_node(stack, folder, index, space, server) for index, space in enumerate(spaces[:2])]
        _register(server, documents, nodes)
        _route(nodes, [space.address for space in spaces])
        witness = stack.enter_context(_witness(folder, nodes, spaces[2])) if witnessed else None
        for node in nodes:
            node.write()
            stack.callback(node.stop)
            node.start()
        cluster = Cluster(folder, nodes, spaces, server, witness)
        for part in PARTS:
            if not part.may_start:
                stack.callback(cluster.stop_part, part.name)
                cluster.start_part(part.name)
        yield cluster


def _node(stack: ExitStack, folder: Path, index: int, space: Namespace, server: SpireServer) -> Node:
    """A node on an agent of its own, which runs; the node does not."""
    name = f"node-{index + 1}"
    prefix = _own_sockets(folder, name, space)
    delegates = [f"spiffe://{TRUST_DOMAIN}/hopseal/attestor/{name}"]
    agent = SpireAgent(folder / f"a{index}", server, node="all", prefix=space.enter, delegates=delegates)
    stack.callback(agent.stop)
    agent.start()
    upstream = {
        "kind": "spire-delegated",
        "workload_socket": str(agent.public_socket),
        "admin_socket": str(agent.admin_socket),
    }
    listen = f"{space.address}:{PEER_PORT}"
    node = Node(name, folder / name, folder / "agents", TRUST_DOMAIN, upstream, prefix=prefix, peer_listen=listen)
    node.metrics_listen = "127.0.0.1:9464"
    return node


def _witness(folder: Path, nodes: Sequence[Node], space: Namespace) -> WitnessProcess:
    """A running witness in ``space`` that knows the keys of both logs, and is named in both nodes' configuration."""
    keys = []
    for node in nodes:
        node.broker_state.mkdir(parents=True, mode=0o700)
        keys.append(load_log_signer(node.broker_state / KEY_NAME, f"custody.{TRUST_DOMAIN}/{node.name}").key)
    witness = WitnessProcess(folder / "witness", tuple(keys), address=space.address, prefix=space.enter).start()
    witness.keep_port()
    for node in nodes:
        named = [{"url": witness.url, "key": str(key)} for key in witness.keys]
        node.audit = {"checkpoint_interval_s": 0.5, "quorum": 1, "witnesses": named}
    return witness


def _own_sockets(folder: Path, node: str, space: Namespace) -> tuple[str, ...]:
    """A command prefix that enters ``space`` and sees the node's own sockets where every document says they are."""
    own = folder / node / "listen"
    own.mkdir(parents=True)
    own.chmod(0o777)
    mount = f'mount --bind "{own}" "{folder}/listen" && exec "$@"'
    return (*space.enter, "sh", "-c", mount, "sh")


def _register(server: SpireServer, documents: Path, nodes: Sequence[Node]) -> None:
    """Create all entries by the command line, as an operator would."""
    common = ["--parent", PARENT, "--server-socket", str(server.socket), "--trust-domain", TRUST_DOMAIN, "--apply"]
    executable = str(Path(sys.executable).resolve())
    for node in nodes:
        own = ["--node", node.name, "--attestor-path", executable, "--broker-uid", "0", "--broker-exe", exe_digest()]
        made = hopseal("entries", "bootstrap", *own, *common)
        assert made.returncode == 0, made.stdout + made.stderr
    synced = hopseal("entries", "sync", "--documents", str(documents), *common)
    assert synced.returncode == 0, synced.stdout + synced.stderr


def _route(nodes: Sequence[Node], addresses: Sequence[str]) -> None:
    for index, node in enumerate(nodes):
        node.routes = [
            {"component": part.qualified, "endpoints": [f"{addresses[part.node]}:{PEER_PORT}"]}
            for part in PARTS
            if part.node != index and not part.may_start
        ]


def _write_documents(folder: Path, svid_ttl_s: int | None) -> Path:
    documents = folder / "agents"
    documents.mkdir()
    (folder / "listen").mkdir(mode=0o777)
    (folder / "listen").chmod(0o777)
    for part in PARTS:
        config = folder / "config" / part.name
        config.mkdir(parents=True)
        (config / "prompt.txt").write_text(f"You are the {part.name}.\n")
    write_document(folder, documents, svid_ttl_s)
    return documents


def write_document(folder: Path, documents: Path, svid_ttl_s: int | None = None) -> None:
    """The Agent document over the configuration files as they are now."""
    lifetime = {} if svid_ttl_s is None else {"x509SvidTtlSeconds": svid_ttl_s}
    spec = {
        "version": "1.0.0",
        "description": "The agent of the cluster tests",
        "owner": "tests@example.org",
        "team": "tests",
        "status": "active",
        "components": [{**_component(folder, part), **lifetime} for part in PARTS],
    }
    document = {"apiVersion": "hopseal.dev/v1alpha1", "kind": "Agent", "metadata": {"name": AGENT}, "spec": spec}
    (documents / f"{AGENT}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def _component(folder: Path, part: Part) -> dict[str, Any]:
    prompt = folder / "config" / part.name / "prompt.txt"
    if part.program is not None:
        own_key = {"attest": {"exe": [digest_of(part.program)]}, "svid": "both"}
        return {"name": part.name, "role": "environment", "mayStart": True, "calls": _calls(part), **own_key}
    roles = {"orchestrator": "orchestrator", "reasoner": "reasoning-engine", "connector": "connector"}
    component: dict[str, Any] = {
        "name": part.name,
        "role": roles.get(part.name, "environment"),
        "attest": {
            "uid": part.uid,
            "exe": [exe_digest()],
            "config": {"files": [str(prompt)], "digest": [config_root(prompt)]},
            "posture": "baseline",
        },
        "mayStart": part.may_start,
        "calls": _calls(part),
    }
    if not part.may_start:
        component["listen"] = f"unix://{folder / 'listen' / part.name}.sock"
    return component


def _calls(part: Part) -> list[dict[str, str]]:
    return [{"to": name} for name in part.calls]


def config_root(path: Path) -> str:
    """The root over one file that the component sees where it is on the host."""
    return config_root_of(str(path), path.read_bytes())


def config_root_of(path: str, content: bytes) -> str:
    """The root over one file, by the rule of the documentation, written down here a second time on purpose."""
    leaf = path.encode() + b"\0" + hashlib.sha256(content).digest()
    return "sha256:" + hashlib.sha256(b"\0" + leaf).hexdigest()
