"""What runs below a process: found at any depth, hashed, steady, and gone when it is gone."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attestor.collectors import children
from attestor.collectors.children import measure_children
from attestor.digests import DigestCache
from attestor.facts import Unreadable
from waiting import wait_until
from whole_node import CLI, WholeNode, whole_node

LIMIT = 1 << 30
OWN = "sha256:" + hashlib.sha256(Path(sys.executable).resolve().read_bytes()).hexdigest()
TREE = """
import subprocess, sys, threading
subprocess.Popen([sys.argv[1], "60"])
thread = threading.Thread(target=lambda: subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]]), daemon=True)
thread.start()
print("ready", flush=True)
input()
"""
DEEPER = "import subprocess, sys; subprocess.run([sys.argv[1] + '2', '60'])"


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def tree(tmp_path: Path):
    first, second = tmp_path / "sleep", tmp_path / "sleep2"
    for path in (first, second):
        shutil.copy("/bin/sleep", path)
        with path.open("ab") as file:
            file.write(path.name.encode())
    process = subprocess.Popen(
        [sys.executable, "-c", TREE, first, DEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    process.stdout.readline()
    try:
        yield process, digest(first), digest(second)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_tree(tree) -> int:
    process, first, second = tree
    wait_until(lambda: measure_children(process.pid, DigestCache(), LIMIT) == {first, second, OWN})
    return process.pid


def test_programs_at_every_depth_and_of_every_thread_are_found(tree) -> None:
    wait_for_tree(tree)


def test_a_process_without_children_or_with_ended_ones_has_none() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import os, sys\nif not os.fork(): os._exit(0)\nprint(1, flush=True)\ninput()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.readline()
    wait_until(lambda: measure_children(process.pid, DigestCache(), LIMIT) == frozenset())
    process.communicate(b"\n")
    assert measure_children(process.pid, DigestCache(), LIMIT) == frozenset()


@pytest.mark.parametrize(("bound", "code"), [(3, None), (2, "children_too_many")])
def test_more_processes_than_the_bound_are_unreadable(tree, bound, code, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = wait_for_tree(tree)
    monkeypatch.setattr(children, "MAX_DESCENDANTS", bound)
    found = measure_children(pid, DigestCache(), LIMIT)
    assert (found.code if isinstance(found, Unreadable) else None) == code


def test_a_program_that_is_too_large_to_hash_is_unreadable(tree) -> None:
    found = measure_children(wait_for_tree(tree), DigestCache(), 10)
    assert isinstance(found, Unreadable)
    assert found.code == "children_too_large"


def test_children_that_never_stay_the_same_are_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(range(1000))
    monkeypatch.setattr(children, "_children", lambda pid: [1] if pid != 1 else [])
    monkeypatch.setattr(children, "_digest", lambda *_: f"sha256:{next(looks)}")
    found = measure_children(os.getpid(), DigestCache(), LIMIT)
    assert isinstance(found, Unreadable)
    assert found.code == "children_unsteady"


@pytest.mark.timeout(300)
def test_a_component_that_starts_another_program_loses_its_identity(tmp_path: Path) -> None:
    with whole_node(tmp_path) as node:
        allowed = digest(Path(shutil.which("true") or "").resolve())
        worker = {"name": "worker", "role": "environment", "mayStart": True, "attest": {"children": [allowed]}}
        node.write("solo", [{**worker, "calls": [{"to": "worker"}]}])
        code = (
            "import subprocess; from hopseal.sdk.tasks import open_task\n"
            "subprocess.run(['true']); open_task(); print('attested', flush=True)\n"
            "subprocess.run(['sleep', '60'])\n"
        )
        task = [*CLI, "call", "http://hopseal.local/task", "-d", "{}"]
        wait_until(lambda: node.run("worker", *task).returncode == 0, timeout_s=30, what="it is attested")
        node.start("worker", "-c", code)
        wait_until(lambda: "attested" in node.log("worker"), timeout_s=30, what="it began a task")
        wait_until(lambda: is_drifted(node), timeout_s=40, what="the new program was noticed")
        assert "children" in node.cli("explain", "solo/worker").stdout


def is_drifted(node: WholeNode) -> bool:
    return "children_changed" in node.cli("status", "--json").stdout
