"""The custody log: entries a second with group commit, the time that one waits, and the tree that is made of them.

Beside one durable write for each entry, and beside what the log takes: the tiler has to keep up with it. Its share of a
processor is for a thousand entries a second.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path

from bench.effort import ROUNDS
from bench.figures import Figure, figure
from bench.programs import build
from broker.audit.journal import Journal
from broker.audit.log_signer import load_log_signer
from broker.audit.tile_store import TileStore
from broker.audit.tiler import Tiler
from custody_calls import call, fresh_id, signer
from custody_logs import LogFile
from fake_dataplane import FakeDataPlane
from hopseal.custody.authority import Authority
from hopseal.custody.delegation import Task
from hopseal.custody.record import Record
from hopseal.custody.sender import build_root, seal_records
from vectors import pki
from vectors.pki import NOW

SECONDS = 3
IN_FLIGHT = 64
TILED = 20_000


def run() -> list[Figure]:
    """Append with 64 entries in flight; then tile a journal of records."""
    program = build("append")["append"]
    appended = [append(program) for _ in range(ROUNDS)]
    tiled = [tile() for _ in range(ROUNDS)]
    rate = [each["per_s"] for each in appended]
    return [
        figure(
            f"entries, {IN_FLIGHT} in flight",
            "/s",
            "one durable write each",
            [(each["per_s"], each["alone_per_s"]) for each in appended],
        ),
        figure(
            f"an entry's wait, {IN_FLIGHT} in flight, p99",
            "ms",
            "10 ms",
            [(each["p99_ms"], 10.0) for each in appended],
            at_most=1.0,
        ),
        figure("entries tiled", "/s", "what the log takes", list(zip((each[0] for each in tiled), rate, strict=True))),
        figure("tiler's share of a core at 1,000 entries/s", "%", "a core", [(each[1], 100.0) for each in tiled]),
    ]


def append(program: Path) -> dict[str, float]:
    # Beside the checkout: a temporary folder may be in memory, where nothing is durable.
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        command = [str(program), folder, str(IN_FLIGHT), str(SECONDS)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(answer.stdout)
    return figures


def tile() -> tuple[float, float]:
    """Entries a second, and the share of a core in percent at a thousand a second."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        (folder / "log").mkdir()
        (folder / "log" / "custody.log").write_bytes(journal())
        plane = FakeDataPlane(durable=TILED)
        signer_ = load_log_signer(folder / "log.key", "custody.example.org/bench")
        tiler = Tiler(folder / "log", TileStore(folder / "tlog"), signer_, plane, interval_s=1.0)
        tree = tiler._load()
        began, used = time.perf_counter(), time.process_time()
        while tree.size < TILED:
            tiler._advance(tree)
        took, busy = time.perf_counter() - began, time.process_time() - used
        assert Journal(folder / "log").first_n() == 0
    return TILED / took, 100 * busy / TILED * 1_000


def journal() -> bytes:
    """A journal of that many records, of one batch's seals over and over."""
    records = [record() for _ in range(32)]
    texts = seal_records(records, signer(pki.ORCHESTRATOR), NOW)
    log = LogFile("bench")
    while len(log.lines) < TILED:
        log.sent(texts[len(log.lines) % len(texts)])
    return log.bytes()


def record() -> Record:
    made = call("orchestrator", "reasoner")
    return build_root(made, cid=fresh_id(), task=Task("task-1"), auth=Authority(exp=NOW + 600, hops=5))
