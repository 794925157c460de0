"""What a node for trying it out consists of: its folder, sockets, configurations and users.

Owns: laying the folder out. Does not own: running anything (``hopseal.cli.local_node``).
"""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import shlex
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from hopseal.cli.document_draft import dump_yaml, file_digest

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
        witnesses: URL and vkey of each witness that the broker asks to cosign its log.
    """

    folder: Path
    documents: Path
    trust_domain: str
    node: str = "local"
    broker_user: BrokerUser | None = None
    docker: tuple[Path, ...] = ()
    podman: tuple[Path, ...] = ()
    witnesses: tuple[tuple[str, str], ...] = ()

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
    def environment_file(self) -> Path:
        """A shell script that exports :attr:`environment`, and this interpreter's commands."""
        return self.folder / "env"

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
    return grp.getgrgid(gid).gr_name


def lay_out_node(plan: NodePlan) -> Path:
    """Make the folders and configurations of ``plan``; the program that its broker runs."""
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
    plan.environment_file.write_text(_environment_script(plan))
    return program


def _environment_script(plan: NodePlan) -> str:
    lines = [f"export {key}={shlex.quote(value)}" for key, value in plan.environment.items()]
    # An absolute path keeps working wherever the shell is that sources this.
    commands = shlex.quote(str(Path(sys.executable).absolute().parent))
    return "\n".join([*lines, f'export PATH={commands}:"$PATH"', ""])


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
        "audit": {"witnesses": [{"url": url, "key": key} for url, key in plan.witnesses]},
        "log": {"format": "json", "level": "info"},
    }
