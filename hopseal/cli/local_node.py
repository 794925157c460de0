"""A whole node on this host, for trying it out: an attestor with the embedded authority, and a broker.

Owns: the two child processes, waiting until they are ready, ending them.
Does not own: the folder they live in (``hopseal.cli.node_plan``), nor what they do; they are the same
programs that run in production.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from hopseal.cli.admin import AdminClient
from hopseal.cli.node_plan import BrokerUser, NodePlan, lay_out_node
from hopseal.errors import DeniedError, UnavailableError
from hopseal.unix_http import is_listening

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05
_PR_SET_PDEATHSIG = 1  # prctl(2)
_LOG_TAIL_LINES = 15


@dataclass(slots=True)
class LocalNode:
    """The two daemons of a plan; a context manager that stops them.

    Args:
        progress: called with a daemon's name and seconds when it became ready.
    """

    plan: NodePlan
    progress: Callable[[str, float], None]
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start both daemons and return when both are ready.

        Raises:
            UnavailableError: a daemon ended or was not ready in time; says what it logged last. Or another node
                runs in this folder, whose files are left alone.
        """
        started = time.monotonic()
        self._check_free()
        broker_program = lay_out_node(self.plan)
        daemons = (
            ("attestor", sys.executable, None, self.plan.attestor_socket),
            ("broker", str(broker_program), self.plan.broker_user, self.plan.broker_socket),
        )
        # In this order: a broker that starts without an attestor reports it for some seconds.
        for name, program, user, socket in daemons:
            self._spawn(name, program, user)
            self._wait_ready(name, socket, started)
            self.progress(name, time.monotonic() - started)

    def wait(self) -> None:
        """Return never, unless a daemon ends.

        Raises:
            UnavailableError: one did.
        """
        while True:
            self._check_running()
            time.sleep(POLL_S * 10)

    def stop(self) -> None:
        """End both, the broker first so that it can still reach the attestor; by force after a while."""
        for name in ("broker", "attestor"):
            process = self._running.pop(name, None)
            if process is None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log_file(self, name: str) -> Path:
        """Where the daemon ``name`` writes its own log."""
        return self.plan.folder / f"{name}.log"

    def _check_free(self) -> None:
        for path in (self.plan.attestor_socket, self.plan.broker_socket):
            if is_listening(path):
                raise UnavailableError(
                    "node_running",
                    f"a node runs in {self.plan.folder} already",
                    remedy="stop it, or choose another folder with --state",
                )

    def _spawn(self, name: str, program: str, user: BrokerUser | None) -> None:
        command = [program, "-m", "hopseal.cli.main", name, "run", "--config", str(self.plan.folder / f"{name}.yaml")]
        identity = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
        with self.log_file(name).open("wb") as log:
            self._running[name] = subprocess.Popen(  # type: ignore[call-overload]  # noqa: S603 - our own program
                command,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - a single system call
                **identity,
            )

    def _wait_ready(self, name: str, socket: Path, started: float) -> None:
        client = AdminClient(name, socket)
        while True:
            try:
                client.get("/readyz")
            except (UnavailableError, DeniedError) as error:
                self._check_running()
                if time.monotonic() - started > READY_TIMEOUT_S:
                    raise self._failed(name, f"was not ready within {READY_TIMEOUT_S:g} s") from error
                time.sleep(POLL_S)
            else:
                return

    def _check_running(self) -> None:
        for name, process in self._running.items():
            if process.poll() is not None:
                raise self._failed(name, f"ended with code {process.returncode}")

    def _failed(self, name: str, what: str) -> UnavailableError:
        log = self.log_file(name)
        tail = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return UnavailableError(
            f"{name}_failed", f"the {name} {what}", detail="\n".join(tail), remedy=f"read its log in {log}"
        )


def _environment() -> dict[str, str]:
    """This environment, with which a copy of the interpreter finds what this one imports."""
    paths = [str(Path(entry).resolve()) for entry in sys.path if entry and Path(entry).is_dir()]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHOME": sys.base_prefix}
    if (libraries := library_folder()) is not None:
        found["LD_LIBRARY_PATH"] = str(libraries)
    return found


def library_folder() -> Path | None:
    """Where the interpreter's shared library was found, which a copy elsewhere may not find; None if it has none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line.partition("/")[1] + line.partition("/")[2])
        if path.name.startswith("libpython3"):
            return path.parent
    return None


def _end_with_parent() -> None:
    # A killed `hopseal up` must not leave daemons behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
