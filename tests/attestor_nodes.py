"""The attestor's core on real processes, without its sockets: children of other users, real collectors."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attestor.admission import Admission, Rate
from attestor.approved import ApprovedSet, build_approved
from attestor.attestation import Attestations, Capacity, approved_watch
from attestor.case import Bench
from attestor.collectors.config import config_root
from attestor.config_watch import ConfigWatches
from attestor.entered import EnteredContainers
from attestor.evidence import EvidenceCollector
from attestor.metrics import Metrics
from attestor.offload import Offload
from attestor.peer import pin_pid
from attestor.registry import Registry
from attestor.tracking import Surroundings
from attestor.verdict import Verdict
from attestor_values import documents
from hopseal.documents.model import Component

WAIT = "import sys; sys.stdin.read()"
PYTHON = os.path.realpath(sys.executable)


def exe_digest(path: str = PYTHON) -> str:
    return "sha256:" + hashlib.sha256(Path(path).read_bytes()).hexdigest()


def root_of(*paths: Path) -> str:
    return config_root({str(path): "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in paths})


@contextmanager
def child(uid: int, code: str = WAIT) -> Iterator[subprocess.Popen[bytes]]:
    """A process of another user that waits until its standard input is closed.

    It changes its user itself, after Python is loaded: the interpreter may lie where only root may read.
    """
    setup = f"import os, sys; os.setgroups([]); os.setgid({uid}); os.setuid({uid}); os.write(1, b'.'); "
    process = subprocess.Popen(
        [PYTHON, "-I", "-S", "-c", setup + "\n" + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    try:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@dataclass
class Node:
    attestations: Attestations
    registry: Registry
    around: Surroundings
    collector: Any
    seen: list[Verdict] = field(default_factory=list)

    def approve(self, approved: ApprovedSet) -> None:
        self.attestations.approve(approved)

    @asynccontextmanager
    async def follow(self, pid: int) -> AsyncIterator[asyncio.Queue[Verdict]]:
        """Every verdict on a process, in order, as they come."""
        queue: asyncio.Queue[Verdict] = asyncio.Queue()
        async with self.attestations.watch(pin_pid(pid)) as verdicts:

            async def copy() -> None:
                async for verdict in verdicts:
                    await queue.put(verdict)

            task = asyncio.create_task(copy())
            try:
                yield queue
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def next_of(queue: asyncio.Queue[Verdict], timeout_s: float = 5.0) -> Verdict:
    async with asyncio.timeout(timeout_s):
        return await queue.get()


@asynccontextmanager
async def node_of(approved: ApprovedSet | None = None, **changes: Any) -> AsyncIterator[Node]:
    """A running core; ``changes`` replace single parts: collector, admission, capacity, interval_s, timeout_s."""
    registry = Registry()
    offload = Offload()
    collector = changes.get("collector") or EvidenceCollector((), timeout_s=changes.get("collector_timeout_s", 5.0))
    rate = Rate(1000, 1000)
    admission = changes.get("admission") or Admission(per_uid=rate, per_cgroup=rate, clock=time.monotonic)
    async with ConfigWatches(offload) as watches:
        around = Surroundings(
            collector=collector,
            config_watcher=changes.get("watcher", watches),
            bench=Bench(
                approved_watch(approved or build_approved(None, {}, ())),
                registry,
                Metrics(),
                time.time,
                changes.get("is_entered") or EnteredContainers(registry).is_entered,
                changes.get("keep") or (lambda *_: None),
            ),
            reattest_interval_s=changes.get("interval_s", 60.0),
            attest_timeout_s=changes.get("timeout_s", 20.0),
            jitter=random.Random(1).random,
            observe_duration=lambda *_: None,
        )
        capacity = changes.get("capacity") or Capacity(1000)
        async with Attestations(around, admission, lambda _: "", capacity) as attestations:
            yield Node(attestations, registry, around, collector)
    offload.close()


def approved_of(*components: Component, sha256: str = "d" * 64) -> ApprovedSet:
    return build_approved(documents(*components, sha256=sha256), {}, ())
