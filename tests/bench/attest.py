"""A component's first SVID, from a new connection to the first message, beside a real SPIRE Agent.

Our attestor sits in front of that same agent (Delegated Identity API), so its figure has SPIRE's share in it. The same
raw client asks both in alternating rounds, as the same process: the agent attests uid and path of this process, ours
its executable's digest, user, posture and a configuration file.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from grpclib.client import Channel

from bench.effort import ROUNDS
from bench.figures import Figure, figure
from hopseal.wire.gen.spiffe.workload.workload_grpc import SpiffeWorkloadAPIStub
from hopseal.wire.gen.spiffe.workload.workload_pb2 import X509SVIDRequest
from real.cluster import config_root, hopseal
from real.nodes import Node, exe_digest
from real.spire import spire
from waiting import wait_until

FETCHES = 100
CONCURRENT = 16
HEADER = {"workload.spiffe.io": "true"}
AGENT = "bench"
NODE = "n1"


def run() -> list[Figure]:
    """Measure latency one after another and throughput with 16 clients, in alternating rounds."""
    with spire(NODE) as (server, agent), attestor(server, agent) as node:
        ours, theirs = str(node.api_socket), str(agent.public_socket)
        return asyncio.run(compare(ours, theirs))


async def compare(ours: str, theirs: str) -> list[Figure]:
    for path in (ours, theirs):
        await fetch_many(path, 20)
    single = [(await fetch_many(ours, FETCHES), await fetch_many(theirs, FETCHES)) for _ in range(ROUNDS)]
    crowd = [(await crowded(ours), await crowded(theirs)) for _ in range(ROUNDS)]
    peer = "SPIRE Agent"
    p50 = [(statistics.median(a) * 1e3, statistics.median(b) * 1e3) for a, b in single]
    p99 = [(ninety_ninth(a) * 1e3, ninety_ninth(b) * 1e3) for a, b in single]
    return [
        figure("first SVID on a new connection, p50", "ms", peer, p50),
        figure("first SVID on a new connection, p99", "ms", peer, p99),
        figure(f"first SVIDs, {CONCURRENT} clients", "/s", peer, crowd),
    ]


def ninety_ninth(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99) - 1]


async def crowded(path: str) -> float:
    """SVIDs per second with many clients, each with a new connection per SVID."""
    began = time.perf_counter()
    await asyncio.gather(*(fetch_many(path, FETCHES // 4) for _ in range(CONCURRENT)))
    return CONCURRENT * (FETCHES // 4) / (time.perf_counter() - began)


async def fetch_many(path: str, count: int) -> list[float]:
    return [await fetch_one(path) for _ in range(count)]


async def fetch_one(path: str) -> float:
    """Seconds from connecting to the first message that carries an SVID."""
    began = time.perf_counter()
    channel = Channel(path=path)
    try:
        async with SpiffeWorkloadAPIStub(channel).FetchX509SVID.open(metadata=HEADER) as stream:
            await stream.send_message(X509SVIDRequest(), end=True)
            message = await stream.recv_message()
            took = time.perf_counter() - began
            if message is None or not message.svids:
                raise RuntimeError(f"{path}: no SVID")
            await stream.cancel()
    finally:
        channel.close()
    return took


@contextmanager
def attestor(server: Any, agent: Any) -> Iterator[Node]:
    """Our attestor in front of ``agent``, with this process registered at both."""
    folder = server.folder.parent
    documents = folder / "agents"
    documents.mkdir()
    prompt = folder / "prompt.txt"
    prompt.write_text("You measure.\n")
    (documents / "bench.yaml").write_text(yaml.safe_dump(document(prompt)))
    register(server, agent, documents)
    upstream = {
        "kind": "spire-delegated",
        "workload_socket": str(agent.public_socket),
        "admin_socket": str(agent.admin_socket),
    }
    # One process asks for everybody here: what one caller may ask for is not what is measured.
    limits = {"requests_per_s_per_uid": 100_000, "requests_per_s_per_cgroup": 100_000}
    node = Node(NODE, folder / "node", documents, server.trust_domain, upstream, attestor_limits=limits)
    node.write()
    try:
        node.start("attestor")
        wait_until(lambda: asyncio.run(serves(str(node.api_socket))), timeout_s=30, what="our SVID")
        wait_until(lambda: asyncio.run(serves(str(agent.public_socket))), timeout_s=30, what="SPIRE's SVID")
        yield node
    finally:
        node.stop()


async def serves(path: str) -> bool:
    try:
        await fetch_one(path)
    except Exception:
        return False
    return True


def register(server: Any, agent: Any, documents: Path) -> None:
    executable = str(Path(sys.executable).resolve())
    common = ["--parent", agent.parent_id, "--server-socket", str(server.socket), "--apply"]
    common += ["--trust-domain", server.trust_domain]
    for command in (
        ["bootstrap", "--node", NODE, "--attestor-path", executable, "--broker-uid", "0", "--broker-exe", exe_digest()],
        ["sync", "--documents", str(documents)],
    ):
        made = hopseal("entries", *command, *common)
        if made.returncode != 0:
            raise RuntimeError(made.stdout + made.stderr)


def document(prompt: Path) -> dict[str, Any]:
    component = {
        "name": "client",
        "role": "environment",
        "svid": "workload-api",
        "attest": {
            "uid": 0,
            "exe": [exe_digest()],
            "config": {"files": [str(prompt)], "digest": [config_root(prompt)]},
            "posture": "privileged",
        },
    }
    spec = {
        "version": "1.0.0",
        "description": "The benchmark's client",
        "owner": "bench@example.org",
        "team": "bench",
        "status": "active",
        "components": [component],
    }
    return {"apiVersion": "hopseal.dev/v1alpha1", "kind": "Agent", "metadata": {"name": AGENT}, "spec": spec}
