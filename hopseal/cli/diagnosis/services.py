"""What the daemons depend on: container engines and SPIRE, asked on their own sockets."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hopseal.cli.diagnosis.finding import Finding, failed, ok, reason_of, skipped
from hopseal.cli.diagnosis.settings import DaemonSettings
from hopseal.unix_http import exchange

TIMEOUT_S: Final = 2.0
_HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"  # RFC 9113 §3.4, with empty settings
_FRAME_HEADER_BYTES, _SETTINGS_FRAME, _TYPE_AT = 9, 4, 3


def check_engines(attestor: DaemonSettings) -> Iterator[Finding]:
    """Each configured container engine answers."""
    engines: Any = attestor.values or {}
    listed = [(kind, Path(each)) for kind in ("docker", "podman") for each in engines.get(kind) or ()]
    if attestor.values is not None and not listed:
        yield skipped("engine.none", "no container engine is configured", "engines in attestor.yaml is empty")
    for kind, path in listed:
        yield _ask_engine(kind, path)


def check_spire(attestor: DaemonSettings) -> Iterator[Finding]:
    """Both sockets of the SPIRE Agent speak HTTP/2, if identities come from SPIRE."""
    for name in ("workload_socket", "admin_socket"):
        path = attestor.path("upstream", name)
        if path is not None:
            yield check_grpc_socket(f"spire.{name}", path, "the SPIRE Agent", "systemctl start spire-agent")


def check_grpc_socket(check: str, path: Path, who: str, start: str) -> Finding:
    """Whether a gRPC server answers at ``path``."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(str(path))
            client.sendall(_HELLO)
            header = client.recv(_FRAME_HEADER_BYTES, socket.MSG_WAITALL)
    except OSError as error:
        return _unreachable(check, path, who, start, error)
    if len(header) < _FRAME_HEADER_BYTES or header[_TYPE_AT] != _SETTINGS_FRAME:
        return failed(
            check, f"{who} does not speak gRPC at {path}", repr(header), f"name the right socket instead of {path}"
        )
    return ok(check, f"{who} answers", str(path))


def _ask_engine(kind: str, path: Path) -> Finding:
    check, who = f"engine.{kind}", f"the {kind} engine"
    start = f"systemctl start {kind}.socket"
    try:
        answer = exchange(path, "GET", "/_ping", timeout_s=TIMEOUT_S)
    except OSError as error:
        return _unreachable(check, path, who, start, error)
    except http.client.HTTPException as error:
        return failed(check, f"{who} answers no HTTP at {path}", repr(error), "correct engines in attestor.yaml")
    if not answer.is_success:
        return failed(check, f"{who} is not well", f"{answer.status} {answer.text[:80]!r}", f"systemctl restart {kind}")
    return ok(check, f"{who} answers", f"{path}, API {answer.header('api-version') or 'of unknown version'}")


def _unreachable(check: str, path: Path, who: str, start: str, error: OSError) -> Finding:
    if isinstance(error, PermissionError):
        return skipped(check, f"this user may not use {path}", reason_of(error), "run it as root")
    if isinstance(error, TimeoutError):
        return failed(
            check, f"{who} does not answer in {TIMEOUT_S:g} s", str(path), start.replace(" start ", " restart ")
        )
    return failed(check, f"{who} is not reachable", f"{path}: {reason_of(error)}", start)
