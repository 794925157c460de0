"""The data plane as Python sees it: the calls, and loading the Rust module.

Owns: the interface that the real module and the tests' fake both have, and the settings text.
Does not own: moving bytes; that is ``broker._dataplane``, written in Rust.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Protocol, cast

from broker.config import BrokerConfig
from hopseal.errors import InvalidError, UnavailableError

_MUST_CORRECT = frozenset({"socket_path_occupied", "socket_folder_unsafe", "settings_invalid"})
_REMEDIES = {
    "socket_in_use": "stop the other broker, or configure another path",
    "socket_path_occupied": "remove what is there, or configure another path",
    "socket_folder_unsafe": "let nobody but its owner write to the folder",
    "peer_port_in_use": "stop what listens there, or change peer_listen",
    "log_locked": "stop the other broker that writes this log",
    "log_unavailable": "see whether the state folder can be written and has space",
}

OUT_SOCKET_MODE = "0777"  # docs/architecture.md: every process may ask; its identity decides


class DataPlane(Protocol):
    """The binding's methods; they never block except ``start``, ``drain``, ``stop`` and those that set policies.

    A refusal by the data plane is an exception with two arguments, a stable code and a message.
    """

    def start(self) -> int:
        """Bind both sockets, open the log, rebuild the replay store; the peer port."""

    def descriptors(self) -> list[int]:
        """``out.sock``, its lock and the peer port, for a process that takes over; they stay the data plane's."""

    def hand_over(self) -> tuple[int, int]:
        """Stop accepting and writing the log; two sockets for the process that takes over, now the caller's."""

    def take_over(self, out: int, out_lock: int, peer: int, relay: int, forward: int) -> int:
        """Start with what another process handed over; all descriptors are now the data plane's; the peer port."""

    def event_fd(self) -> int:
        """An eventfd, readable once :meth:`take_events` has news that must not wait, or many lines about calls."""

    def take_events(self) -> list[str]:
        """JSON texts of what happened since the last call."""

    def take_calls(self, end: str, most: int) -> tuple[str, list[str]]:
        """Up to ``most`` calls that ended, oldest first, which :meth:`take_events` then does not bring.

        Those in printable ASCII are lines of JSON, each with ``end`` in place of its last brace; the others JSON texts.
        """

    def admit_caller(self, pidfd_inode: int, instance: str, component: str) -> None:
        """Calls of this process are calls of ``component``."""

    def refuse_caller(self, pidfd_inode: int, code: str, retry: bool) -> None:
        """Answer this process 403, or 503 with ``retry``."""

    def forget_caller(self, pidfd_inode: int) -> None:
        """Ask again at its next connection."""

    def admit_listener(self, component: str, pidfd_inode: int, instance: str) -> None:
        """This process may receive calls for ``component``; inode 0 stands for a listener that has exited."""

    def refuse_listener(self, component: str, pidfd_inode: int, code: str) -> None:
        """Send nothing to this process."""

    def forget_listener(self, component: str, pidfd_inode: int) -> None:
        """Ask again when it is met next."""

    def set_identity(
        self, instance: str, component: str, spiffe_id: str, chain_der: list[bytes], key_pkcs8: bytes, expires_at: int
    ) -> None:
        """Install a new or rotated SVID."""

    def withdraw(self, instance: str, component: str, code: str) -> None:
        """Drop keys and close every connection of the instance at once."""

    def set_bundles(self, bundles: list[tuple[str, list[bytes], int]]) -> None:
        """Trust domain, DER certificates, sequence (0 unknown), one for each trust domain."""

    def set_components(self, components_json: str) -> None:
        """Every documented component."""

    def set_routes(self, routes_json: str) -> None:
        """Component to endpoints on other nodes."""

    def set_issuers(self, issuers_json: str) -> None:
        """Issuers of user tokens with their keys; malformed ones raise and change nothing."""

    def set_policy_sets(self, sets_json: str, facts_json: str) -> None:
        """Replace the policies and the facts beside them, and judge open calls; invalid ones raise, nothing changes."""

    def set_policy_facts(self, facts_json: str) -> None:
        """Replace the facts alone, and judge open calls; invalid ones raise and change nothing."""

    def explain(self, question_json: str) -> str:
        """JSON text: what the policies in force make of a question; a malformed one raises."""

    def decision(self, decision_id: str) -> str | None:
        """JSON text: what is remembered of a decision."""

    def log_durable(self) -> int:
        """How many log entries are durable: all whose number is smaller."""

    def take_leaves(self, start: int, end: int) -> list[bytes] | None:
        """Leaves of durable entries ``start`` to ``end``, each given once; None if only the journal has them all."""

    def set_witnessed(self, count: int) -> None:
        """The first ``count`` log entries are witnessed."""

    def append_artifact(self, artifact_json: str, chain_der: list[bytes] = ...) -> None:
        """Log a JSON object of type attest, token or revoke, after the certificates; the log adds number and time."""

    def stats(self) -> str:
        """JSON text with metrics and status."""

    def drain(self, timeout_s: float) -> None:
        """Accept nothing new; wait for calls in progress."""

    def stop(self) -> None:
        """Close everything and flush the log."""


def load_data_plane(config: BrokerConfig) -> DataPlane:
    """The Rust data plane, constructed and not started.

    Raises:
        UnavailableError: the compiled module is not installed (``dataplane_missing``).
        InvalidError: it refuses the settings (``settings_invalid``).
    """
    try:
        module = importlib.import_module("broker._dataplane")
    except ImportError as error:
        raise UnavailableError(
            "dataplane_missing",
            "the broker's compiled data plane is not installed",
            detail=str(error),
            remedy="install hopseal-node, or build it with `make rust`",
        ) from error
    try:
        return cast("DataPlane", module.DataPlane(encode_settings(config)))
    except module.DataPlaneError as error:
        raise InvalidError(*error.args) from error


def start_data_plane(data_plane: DataPlane) -> int:
    """The peer port, once the data plane serves.

    Raises:
        InvalidError: a path or setting must be corrected first; the code is the data plane's.
        UnavailableError: a socket, port or log is taken or cannot be opened; the code is the data plane's.
    """
    return _started(data_plane.start)


def _started(start: Callable[[], int]) -> int:
    try:
        return start()
    except Exception as error:  # the binding's own exception type exists only where it is installed
        code, message = error.args if len(error.args) == 2 else ("start_failed", repr(error))
        family = InvalidError if code in _MUST_CORRECT else UnavailableError
        raise family(str(code), str(message), remedy=_REMEDIES.get(str(code), "")) from error


def take_over_data_plane(data_plane: DataPlane, descriptors: tuple[int, int, int, int, int]) -> int:
    """The peer port, once the data plane serves in another one's place.

    Raises:
        InvalidError, UnavailableError: as of :func:`start_data_plane`.
    """
    return _started(lambda: data_plane.take_over(*descriptors))


def encode_settings(config: BrokerConfig) -> str:
    """The JSON text that the data plane is constructed with."""
    return json.dumps(
        {
            "trust_domain": config.trust_domain.name,
            "node": config.node,
            "out_socket": str(config.out_socket),
            "out_socket_mode": OUT_SOCKET_MODE,
            "connect_socket": str(config.attestor.connect_socket),
            "peer_listen": str(config.peer_listen),
            "log_dir": str(config.state_dir / "log"),
            "body_limit_bytes": config.limits.body_bytes,
            "streams": config.limits.streams,
            "worker_threads": config.limits.worker_threads,
            "default_component": config.default_component,
            "boundaries": {
                name: {
                    "sealed": boundary.sealed,
                    "gateways": list(boundary.gateways),
                    "unverified_users": boundary.unverified_users,
                }
                for name, boundary in config.boundaries.items()
            },
            "log": {
                "segment_bytes": config.audit.segment_bytes,
                "wait_when_full": config.audit.wait_when_full,
                "strict": config.audit.strict,
            },
            "egress": config.egress.encode(),
            "limits": {
                "out_connections": config.limits.connections,
                "out_connections_per_uid": config.limits.connections_per_peer,
                "peer_connections": config.limits.connections,
                "peer_connections_per_address": config.limits.connections_per_peer,
                "handshakes": config.limits.handshakes,
                **config.bounds,
            },
            "timeouts_ms": dict(config.timeouts_ms),
        }
    )
