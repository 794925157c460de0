"""Private SPIRE servers and agents for tests, with short intervals.

Owns: configuration files, processes, join tokens. Does not own: entries (``hopseal.spire_server``).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from waiting import wait_until

VERSION = "1.15.3"
START_TIMEOUT_S = 30.0


def find_binaries() -> Path:
    """The folder with ``spire-server`` and ``spire-agent``; skips the test if there is none (which fails in CI)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("HOPSEAL_SPIRE_BIN") or cache / "hopseal" / f"spire-{VERSION}")
    if not all((folder / name).is_file() for name in ("spire-server", "spire-agent")):
        pytest.skip(f"SPIRE {VERSION} is not built: no spire-server and spire-agent in {folder}; run `make test`")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Process:
    """One process with its log file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command = list(command)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, extra: Sequence[str] = ()) -> None:
        assert not self.is_running
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([*self.command, *extra], stdout=log, stderr=log)

    def end(self, *, kill: bool = False) -> None:
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def wait_healthy(self, command: Sequence[str]) -> None:
        def healthy() -> bool:
            assert self.is_running, f"{self.command[0]} ended:\n{self.log.read_text()[-3000:]}"
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

        wait_until(healthy, timeout_s=START_TIMEOUT_S, what=f"health of {self.command}, see {self.log}")


class SpireServer:
    """A SPIRE server with its state in ``folder``; keeps its authorities over a restart."""

    def __init__(
        self,
        folder: Path,
        *,
        trust_domain: str = "example.org",
        bind_address: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        reload: str = "200ms",
        ca_ttl: str = "24h",
        svid_ttl: str = "10m",
    ) -> None:
        self.folder = folder
        self.trust_domain = trust_domain
        self.bind_address = bind_address
        self.port = free_port()
        self.socket = folder / "server.sock"
        self.bundle_file = folder / "bundle.pem"
        self._binary = str(find_binaries() / "spire-server")
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "server.conf"
        config.write_text(f"""
server {{
  bind_address = "{bind_address}"
  bind_port = "{self.port}"
  socket_path = "{self.socket}"
  trust_domain = "{trust_domain}"
  data_dir = "{folder}/data"
  log_level = "INFO"
  ca_ttl = "{ca_ttl}"
  default_x509_svid_ttl = "{svid_ttl}"
  default_jwt_svid_ttl = "5m"
  experimental {{
    cache_reload_interval = "{reload}"
  }}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{folder}/data/datastore.sqlite3"
    }}
  }}
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  KeyManager "disk" {{
    plugin_data {{
      keys_path = "{folder}/data/keys.json"
    }}
  }}
}}
""")
        (folder / "data").mkdir(exist_ok=True)
        self._process = _Process([*prefix, self._binary, "run", "-config", str(config)], folder / "server.log")

    def start(self) -> None:
        self._process.start()
        self._process.wait_healthy([self._binary, "healthcheck", "-socketPath", str(self.socket)])
        self.bundle_file.write_text(self.run("bundle", "show"))

    def stop(self) -> None:
        self._process.end()

    def kill(self) -> None:
        self._process.end(kill=True)

    def run(self, *arguments: str) -> str:
        """The output of a ``spire-server`` command."""
        command = [self._binary, *arguments, "-socketPath", str(self.socket)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def authorities(self) -> frozenset[bytes]:
        """The CA certificates that its trust bundle holds, as DER."""
        pem = self.run("bundle", "show").encode()
        return frozenset(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(pem))

    def rotate_authority(self) -> str:
        """Let a new CA sign from now on, and taint the old one, whose SVIDs agents then replace; ID of the old one."""
        prepared = self._authority("prepare")["prepared_authority"]["authority_id"]
        old = self._authority("show")["active"]["authority_id"]
        self._authority("activate", "-authorityID", prepared)
        self._authority("taint", "-authorityID", old)
        return str(old)

    def revoke_authority(self, authority: str) -> None:
        """Take an old CA out of the trust bundle."""
        self._authority("revoke", "-authorityID", authority)

    def _authority(self, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.run("localauthority", "x509", *arguments, "-output", "json"))
        return answer

    def create_token(self, spiffe_id: str) -> str:
        return str(json.loads(self.run("token", "generate", "-spiffeID", spiffe_id, "-output", "json"))["value"])


class SpireAgent:
    """A SPIRE agent of ``server`` with its state in ``folder``; survives a restart without a new token."""

    def __init__(
        self,
        folder: Path,
        server: SpireServer,
        *,
        node: str,
        server_address: str | None = None,
        prefix: Sequence[str] = (),
        sync: str = "200ms",
        delegates: Sequence[str] | None = None,
    ) -> None:
        self.folder = folder
        self.server = server
        self.node = node
        self.parent_id = f"spiffe://{server.trust_domain}/node/{node}"
        self.public_socket = folder / "public" / "agent.sock"
        self.admin_socket = folder / "admin" / "admin.sock"
        self._binary = str(find_binaries() / "spire-agent")
        self._has_joined = False
        if delegates is None:
            delegates = [f"spiffe://{server.trust_domain}/hopseal/attestor/{node}"]
        for name in ("data", "public", "admin"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        config = folder / "agent.conf"
        config.write_text(f"""
agent {{
  data_dir = "{folder}/data"
  log_level = "INFO"
  server_address = "{server_address or server.bind_address}"
  server_port = "{server.port}"
  socket_path = "{self.public_socket}"
  admin_socket_path = "{self.admin_socket}"
  trust_bundle_path = "{server.bundle_file}"
  trust_domain = "{server.trust_domain}"
  authorized_delegates = {json.dumps(list(delegates))}
  experimental {{
    sync_interval = "{sync}"
  }}
}}
plugins {{
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  KeyManager "disk" {{
    plugin_data {{
      directory = "{folder}/data"
    }}
  }}
  WorkloadAttestor "unix" {{
    plugin_data {{
      discover_workload_path = true
      workload_size_limit = -1
    }}
  }}
}}
""")
        self._process = _Process([*prefix, self._binary, "run", "-config", str(config)], folder / "agent.log")

    def start(self) -> None:
        token = [] if self._has_joined else ["-joinToken", self.server.create_token(self.parent_id)]
        self._process.start(token)
        self._process.wait_healthy([self._binary, "healthcheck", "-socketPath", str(self.public_socket)])
        self._has_joined = True
        self.public_socket.chmod(0o777)

    def stop(self) -> None:
        self._process.end()

    def kill(self) -> None:
        self._process.end(kill=True)

    @property
    def pid(self) -> int:
        return self._process.pid


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder whose paths are short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="hopseal-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def spire(node: str = "n1", **server_settings: str) -> Iterator[tuple[SpireServer, SpireAgent]]:
    """A running server and agent."""
    with socket_folder() as folder:
        server = SpireServer(folder / "server", **server_settings)  # type: ignore[arg-type]
        agent = SpireAgent(folder / "agent", server, node=node)
        try:
            server.start()
            agent.start()
            yield server, agent
        finally:
            agent.stop()
            server.stop()
