"""The broker beside the real attestor on the embedded authority: two daemons, one node."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker_process import ROOT, BrokerProcess, ComponentProcess
from waiting import wait_until

_RUN = "from attestor.commands import attestor_group; attestor_group(prog_name='hopseal attestor')"
FRONT_UID, STORE_UID = 41011, 41012

DOCUMENT = """\
apiVersion: hopseal.dev/v1alpha1
kind: Agent
metadata: {{name: crm}}
spec:
  version: 1.0.0
  description: A test
  owner: me@example.org
  team: team-a
  status: active
  components:
    - name: front
      role: orchestrator
      mayStart: true
      attest:
        exe: ["{exe}"]
        uid: {front}
        config: {{files: [{folder}/prompt.txt], digest: ["{root}"]}}
      calls:
        - {{to: store, operations: [POST /items]}}
    - name: store
      role: connector
      attest: {{exe: ["{exe}"], uid: {store}}}
      listen: unix://{folder}/store.sock
"""


def config_root(path: Path, content: bytes) -> str:
    """The Merkle root over one file: RFC 6962 leaf over path, zero, and the file's digest."""
    leaf = b"\x00" + str(path).encode() + b"\x00" + hashlib.sha256(content).digest()
    return "sha256:" + hashlib.sha256(leaf).hexdigest()


class Node:
    """Both daemons and two components, everything in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prompt = folder / "prompt.txt"
        self.prompt.write_bytes(b"be kind")
        self.broker = BrokerProcess(folder, grace_s="10", attestor_admin=str(folder / "run" / "admin.sock"))
        exe = "sha256:" + hashlib.sha256(Path(sys.executable).resolve().read_bytes()).hexdigest()
        (folder / "agents" / "crm.yaml").write_text(
            DOCUMENT.format(
                exe=exe,
                folder=folder,
                front=FRONT_UID,
                store=STORE_UID,
                root=config_root(self.prompt, b"be kind"),
            )
        )
        self.config = folder / "attestor.yaml"
        self.config.write_text(
            "trust_domain: example.org\n"
            "node: node-1\n"
            f"documents: {folder}/agents\n"
            f"state_dir: {folder}/attestor\n"
            f"sockets: {{workload: {folder}/api/api.sock, broker: {folder}/run/broker.sock, "
            f"admin: {folder}/run/admin.sock}}\n"
            f"upstream: {{kind: embedded, state_dir: {folder}/authority}}\n"
            f"brokers: [{{node: node-1, attest: {{uid: 0, exe: ['{exe}']}}}}]\n"
            "reattest_interval_s: 1\n"
        )
        self.attestor: subprocess.Popen | None = None
        self.front: ComponentProcess | None = None
        self.store: ComponentProcess | None = None

    def start_attestor(self) -> None:
        with (self.folder / "attestor.log").open("ab") as log:
            self.attestor = subprocess.Popen(
                [sys.executable, "-c", _RUN, "run", "--config", str(self.config)], cwd=ROOT, stdout=log, stderr=log
            )

    def kill_attestor(self) -> None:
        self.attestor.kill()
        self.attestor.wait()

    def call(self) -> dict:
        return self.front.call(self.broker.out, "store.crm")

    def calls_succeed(self) -> bool:
        return self.call().get("status") == 200


@pytest.fixture
def node():
    folder = Path(tempfile.mkdtemp(prefix="hopseal-"))
    folder.chmod(0o777)
    made = Node(folder)
    try:
        made.start_attestor()
        made.broker.start()
        made.store = ComponentProcess(folder / "store.sock", uid=STORE_UID)
        made.front = ComponentProcess(uid=FRONT_UID)
        wait_until(lambda: made.broker.callee("crm/store") == "attested", timeout_s=30, what="the callee")
        yield made
    finally:
        made.broker.kill()
        for component in (made.front, made.store):
            if component is not None:
                component.kill()
        made.kill_attestor()
        shutil.rmtree(folder)


@contextmanager
def showing_logs(node: Node):
    try:
        yield
    except AssertionError:
        print(node.broker.log_path.read_text()[-8000:])
        print((node.folder / "attestor.log").read_text()[-8000:])
        raise


def test_attested_components_call_each_other_and_drift_ends_it(node):
    with showing_logs(node):
        wait_until(node.calls_succeed)
        wait_until(lambda: node.broker.status()["problems"] == [], what="a healthy broker")
        assert b"hopseal_attestor" in node.broker.get("/metrics")[1]
        node.prompt.write_bytes(b"be evil")
        wait_until(lambda: node.broker.events("identity_withdrawn"), timeout_s=2.0)
        answer = node.call()
        assert answer["status"] == 403
        assert '"code":"identity_none"' in answer["body"]
        node.prompt.write_bytes(b"be kind")
        wait_until(node.calls_succeed, timeout_s=20)


def test_a_killed_attestor_that_comes_back_interrupts_no_call(node):
    with showing_logs(node):
        wait_until(node.calls_succeed)
        node.kill_attestor()
        wait_until(lambda: node.broker.events("attestor_disconnected"))
        assert node.calls_succeed()
        node.start_attestor()
        wait_until(
            lambda: len([each for each in node.broker.events("identity_confirmed") if each["again"]]) == 2,
            timeout_s=20,
        )
        assert node.calls_succeed()
        assert not node.broker.events("identity_withdrawn")


def test_a_quiet_broker_keeps_its_connection(node):
    """The attestor closes connections on which nobody asks anything; a broker without calls is no such one."""
    with showing_logs(node):
        node.front.kill()
        node.store.kill()
        wait_until(lambda: node.broker.status()["identities"] == [], timeout_s=20)
        seen = len(node.broker.events("attestor_disconnected"))
        started = node.broker.status()["attestor"]["since"]
        wait_until(lambda: time.time() - started > 7, timeout_s=20)
        assert len(node.broker.events("attestor_disconnected")) == seen
        node.front = ComponentProcess(uid=FRONT_UID)
