"""A whole node on this host, for trying it out: an attestor with the embedded authority, and a broker.

Owns: the folder with both configurations, the two child processes, waiting until they are ready.
Does not own: what the daemons do; they are the same programs that run in production.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from hopseal.cli.admin import AdminClient
from hopseal.cli.document_draft import dump_yaml, file_digest
from hopseal.errors import DeniedError, UnavailableError

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05
_PR_SET_PDEATHSIG = 1  # prctl(2)
_LOG_TAIL_LINES = 15
_BROKER_USERS = ("hopseal-broker", "nobody")


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """Whom the broker runs as; ``group`` may use the attestor's sockets."""

    uid: int
    gid: int
    group: str


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What to run.

    Args:
        folder: for sockets, configurations, state and logs; made if absent.
        documents: folder of Agent documents.
        broker_user: None runs the broker as this user.
        docker, podman: API sockets of container engines that the attestor may ask.
    """

    folder: Path
    documents: Path
    trust_domain: str
    node: str = "local"
    broker_user: BrokerUser | None = None
    docker: tuple[Path, ...] = ()
    podman: tuple[Path, ...] = ()

    @property
    def workload_socket(self) -> Path:
        """The SPIFFE Workload API."""
        return self.folder / "agent" / "api.sock"

    @property
    def attestor_socket(self) -> Path:
        """The attestor's admin socket."""
        return self.folder / "attestor" / "admin.sock"

    @property
    def broker_api_socket(self) -> Path:
        """The SPIFFE Broker API."""
        return self.folder / "attestor" / "broker.sock"

    @property
    def broker_socket(self) -> Path:
        """The broker's admin socket."""
        return self.folder / "broker" / "admin.sock"

    @property
    def out_socket(self) -> Path:
        """Where components call."""
        return self.folder / "call" / "out.sock"

    @property
    def custody_log(self) -> Path:
        """Folder of the broker's custody log."""
        return self.folder / "state" / "broker" / "log"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point the command line and components at this node."""
        return {
            "SPIFFE_ENDPOINT_SOCKET": f"unix://{self.workload_socket}",
            "HOPSEAL_OUT_SOCKET": str(self.out_socket),
            "HOPSEAL_ATTESTOR_SOCKET": str(self.attestor_socket),
            "HOPSEAL_BROKER_SOCKET": str(self.broker_socket),
            "HOPSEAL_DOCUMENTS": str(self.documents),
            "HOPSEAL_TRUST_DOMAIN": self.trust_domain,
            "HOPSEAL_LOG": str(self.custody_log),
        }


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
            UnavailableError: a daemon ended or was not ready in time; says what it logged last.
        """
        started = time.monotonic()
        broker_program = _prepare(self.plan)
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


def choose_broker_user(*paths: Path) -> BrokerUser | None:
    """An unprivileged user for the broker; None if this user has to do.

    Args:
        paths: what that user must be able to read, besides the interpreter and what it imports.
    """
    imported = [Path(sys.executable), Path(sys.base_prefix), *(Path(entry) for entry in sys.path if entry)]
    if os.geteuid() != 0 or not all(is_reachable_by_others(path) for path in (*imported, *paths)):
        return None
    for name in _BROKER_USERS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return BrokerUser(found.pw_uid, found.pw_gid, _group_name(found.pw_gid))
    return None


def is_reachable_by_others(path: Path) -> bool:
    """Whether every user may read ``path``, as far as modes tell; True for what does not exist."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would jump over the folders of a link
    if not path.exists():
        return True
    needed = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
    folders = {*path.parents, *path.resolve().parents}
    return path.stat().st_mode & needed == needed and all(each.stat().st_mode & stat.S_IXOTH for each in folders)


def _group_name(gid: int) -> str:
    import grp  # noqa: PLC0415 - only where a broker user was found

    return grp.getgrgid(gid).gr_name


def _prepare(plan: NodePlan) -> Path:
    """Folders, configurations, and the broker's own copy of the interpreter."""
    plan.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    user = plan.broker_user
    for name, mode, is_brokers in (
        ("agent", 0o755, False),
        ("attestor", 0o750, False),
        ("call", 0o755, True),
        ("broker", 0o750, True),
        ("bin", 0o755, False),
        ("state", 0o755, False),
        ("state/attestor", 0o700, False),
        ("state/broker", 0o700, True),
    ):
        folder = plan.folder / name
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)
        if user is not None:
            os.chown(folder, user.uid if is_brokers else 0, user.gid if is_brokers or name == "attestor" else 0)
    program = _own_interpreter(plan.folder / "bin" / "hopseal-broker")
    (plan.folder / "attestor.yaml").write_text(dump_yaml(_attestor_config(plan, program)))
    (plan.folder / "broker.yaml").write_text(dump_yaml(_broker_config(plan)))
    return program


def _own_interpreter(path: Path) -> Path:
    """A copy of the interpreter that nothing else runs, so that its digest means the broker and no other program.

    A few bytes after the end of an executable change its digest and nothing else.
    """
    path.unlink(missing_ok=True)
    shutil.copyfile(Path(sys.executable).resolve(), path)
    with path.open("ab") as file:
        file.write(secrets.token_bytes(16))
    path.chmod(0o755)
    return path


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


def _attestor_config(plan: NodePlan, broker_program: Path) -> dict[str, object]:
    uid = os.geteuid() if plan.broker_user is None else plan.broker_user.uid
    return {
        "trust_domain": plan.trust_domain,
        "node": plan.node,
        "documents": str(plan.documents),
        "state_dir": str(plan.folder / "state" / "attestor"),
        "sockets": {
            "workload": str(plan.workload_socket),
            "broker": str(plan.broker_api_socket),
            "admin": str(plan.attestor_socket),
        },
        **({} if plan.broker_user is None else {"socket_group": plan.broker_user.group}),
        "upstream": {"kind": "embedded", "state_dir": str(plan.folder / "state" / "attestor" / "authority")},
        "brokers": [{"node": plan.node, "attest": {"uid": uid, "exe": [file_digest(broker_program)]}}],
        "engines": {"docker": [str(path) for path in plan.docker], "podman": [str(path) for path in plan.podman]},
        "log": {"format": "json", "level": "info"},
    }


def _broker_config(plan: NodePlan) -> dict[str, object]:
    return {
        "trust_domain": plan.trust_domain,
        "node": plan.node,
        "documents": str(plan.documents),
        "state_dir": str(plan.folder / "state" / "broker"),
        "sockets": {"out": str(plan.out_socket), "admin": str(plan.broker_socket)},
        "attestor": {
            "workload_socket": str(plan.workload_socket),
            "broker_socket": str(plan.broker_api_socket),
            "admin_socket": str(plan.attestor_socket),
        },
        # One host: other nodes do not call here, and several such nodes may run side by side.
        "peer_listen": "127.0.0.1:0",
        "metrics_listen": "127.0.0.1:0",
        "log": {"format": "json", "level": "info"},
    }


def _end_with_parent() -> None:
    # A killed `hopseal up` must not leave daemons behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
