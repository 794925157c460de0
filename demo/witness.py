"""A witness beside the node: a process of its own that cosigns the node's log, as somebody else would run it elsewhere.

Owns: its configuration, the process, and the policy of an auditor who trusts it. Does not own: what it does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

from broker.audit.log_signer import KEY_NAME, load_log_signer
from demo.processes import end_with_parent
from demo.stage import TRUST_DOMAIN
from hopseal.cli.node_plan import NodePlan, lay_out_node
from hopseal.errors import UnavailableError

NAME = "witness.demo.example.org/w1"
STOP_TIMEOUT_S = 10.0
_HOPSEAL = (sys.executable, "-m", "hopseal.cli.main")


class DemoWitness:
    """Configured when made, running between ``start`` and ``stop``; a context manager that stops it.

    Args:
        folder: for its configuration, keys, memory and output.
        plan: of the node, whose log's key is made here so that the witness knows it.
    """

    def __init__(self, folder: Path, plan: NodePlan) -> None:
        self._output = folder / "witness.log"
        self._config = folder / "witness.yaml"
        self._process: subprocess.Popen[bytes] | None = None
        log_key = _make_log_key(plan)
        address = f"127.0.0.1:{_free_port()}"
        given = ["--name", NAME, "--log", log_key, "--algorithm", "ed25519", "--listen", address]
        given += ["--state", str(folder / "witness"), "--config", str(self._config)]
        _run("init", *given)
        self.key = _run("key", "--config", str(self._config)).strip()
        self.url = f"http://{address}"
        self.policy = f"log {log_key}\nwitness demo {self.key}\nquorum demo\n"

    def start(self) -> Self:
        """Start it; the broker asks until it answers."""
        with self._output.open("wb") as output:
            command = [*_HOPSEAL, "audit", "witness", "run", "--config", str(self._config)]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - a single system call
            )
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _make_log_key(plan: NodePlan) -> str:
    """The key that the broker's log will have."""
    lay_out_node(plan)
    path = plan.folder / "state" / "broker" / KEY_NAME
    key = load_log_signer(path, f"custody.{TRUST_DOMAIN}/{plan.node}").key
    if plan.broker_user is not None:
        os.chown(path, plan.broker_user.uid, plan.broker_user.gid)
    return str(key)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(*arguments: str) -> str:
    command = [*_HOPSEAL, "audit", "witness", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UnavailableError("witness_failed", f"`hopseal audit witness {arguments[0]}` failed", detail=done.stderr)
    return done.stdout
