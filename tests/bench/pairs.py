"""The layouts that are compared: client → A → mutual TLS → B → origin.

A and B are on one core, client and origin on another. All take plain HTTP/1.1 at a Unix socket, and speak TLS 1.3 with
P-256 certificates on both sides between A and B.
Owns: starting and pinning them. Does not own: what is asked of them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.effort import OTHER_CORE, PAIR_CORE, cpu_s, pinned, rss_mb
from bench.envoy import certificates, envoy_pair, free_port, listens
from bench.nginx import nginx_pair
from bench.programs import digest
from real.nodes import Node, running
from waiting import wait_until

AGENT = "bench"
TRUST_DOMAIN = "bench.example.org"
PEER_NAME = "bench.example.org"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two proxies in front of an origin.

    Args:
        name: in tables.
        target: where callers connect, as the load generator takes it.
        host: that they ask for.
        pids: of A and B.
        nodes: A and B, if they are ours.
    """

    name: str
    target: str
    host: str
    pids: tuple[int, ...]
    nodes: tuple[Node, ...] = ()

    def cpu_s(self) -> float:
        return cpu_s(self.pids)

    def rss_mb(self) -> float:
        return rss_mb(self.pids)


@contextmanager
def origin(program: Path, socket: Path) -> Iterator[None]:
    process = subprocess.Popen(pinned(OTHER_CORE, [program, socket]))
    try:
        wait_until(socket.exists, what="origin")
        yield
    finally:
        process.terminate()
        process.wait(5)


@contextmanager
def all_pairs(programs: dict[str, Path], folder: Path) -> Iterator[list[Pair]]:
    """Ours first, then every peer that is installed; an idle pair costs nothing."""
    socket = folder / "origin.sock"
    with ExitStack() as stack:
        stack.enter_context(origin(programs["origin"], socket))
        pairs = [stack.enter_context(hopseal_pair(programs, folder))]
        program = programs["plain"]
        forwarding = [
            *(envoy(_made(folder / f"envoy-{http2}"), socket, http2=http2) for http2 in (False, True)),
            *(plain(program, _made(folder / f"plain-{http2}"), socket, http2=http2) for http2 in (False, True)),
        ]
        pairs += map(stack.enter_context, forwarding)
        nginx = stack.enter_context(nginx_pair(_made(folder / "nginx"), socket))
        if nginx is None:
            print("no nginx here: its rows are left out")
        else:
            entry, pids = nginx
            pairs.append(Pair("nginx pair, h1", f"unix:{entry}", PEER_NAME, pids))
        yield pairs


@contextmanager
def hopseal_pair(programs: dict[str, Path], folder: Path) -> Iterator[Pair]:
    """Two nodes of one trust domain: everything on, as it always is."""
    upstream = {"kind": "embedded", "state_dir": str(folder / "authority")}
    socket = folder / "origin.sock"
    nodes = []
    for name, listen in (("a", folder / "elsewhere.sock"), ("b", socket)):
        documents = _made(folder / f"agents-{name}")
        (documents / "bench.yaml").write_text(yaml.safe_dump(document(programs, listen)))
        prefix = pinned(PAIR_CORE, [])
        nodes.append(Node(name, folder / f"node-{name}", documents, TRUST_DOMAIN, upstream, prefix=prefix))
    port = free_port()
    nodes[1].peer_listen = f"127.0.0.1:{port}"
    nodes[0].routes = [{"component": f"{AGENT}/origin", "endpoints": [nodes[1].peer_listen]}]
    with running(*nodes):
        nodes[1].wait_callable(f"{AGENT}/origin")
        pids = tuple(node.processes["broker"].pid for node in nodes)
        yield Pair("Hopseal", f"unix:{nodes[0].out_socket}", f"origin.{AGENT}", pids, tuple(nodes))


@contextmanager
def envoy(folder: Path, socket: Path, *, http2: bool) -> Iterator[Pair]:
    """Two stock Envoys."""
    with envoy_pair(folder, socket, http2=http2, prefix=pinned(PAIR_CORE, [])) as running_pair:
        yield Pair(f"Envoy pair, {_protocol(http2)}", f"unix:{running_pair.entry}", PEER_NAME, running_pair.pids)


@contextmanager
def plain(program: Path, folder: Path, socket: Path, *, http2: bool) -> Iterator[Pair]:
    """Two programs of our libraries that only forward; no mode of the broker."""
    certificates(folder)
    port, entry = free_port(), folder / "plain.sock"
    files = {name: [folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem"] for name in "ab"}
    receive = [program, "receive", f"127.0.0.1:{port}", socket, *files["b"]]
    send = [program, "send", entry, f"127.0.0.1:{port}", *files["a"], _protocol(http2)]
    processes = [subprocess.Popen(pinned(PAIR_CORE, command)) for command in (receive, send)]
    try:
        wait_until(lambda: entry.exists() and listens(port), what="plain pair")
        pids = tuple(process.pid for process in processes)
        yield Pair(f"plain forwarding, {_protocol(http2)}", f"unix:{entry}", PEER_NAME, pids)
    finally:
        for process in processes:
            process.terminate()
            process.wait(5)


def document(programs: dict[str, Path], listen: Path) -> dict[str, Any]:
    load = {
        "name": "load",
        "role": "environment",
        "mayStart": True,
        "attest": {"exe": [digest(programs["load"])]},
        "calls": [{"to": "origin"}],
    }
    served = {
        "name": "origin",
        "role": "connector",
        "attest": {"exe": [digest(programs["origin"])]},
        "listen": f"unix://{listen}",
    }
    return {
        "apiVersion": "hopseal.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": AGENT},
        "spec": {
            "version": "1.0.0",
            "description": "The benchmark's caller and callee",
            "owner": "bench@example.org",
            "team": "bench",
            "status": "active",
            "components": [load, served],
        },
    }


def _protocol(http2: bool) -> str:
    return "h2" if http2 else "h1"


def _made(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o755)
    return folder
