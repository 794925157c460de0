"""The two data planes of ``plane``, in its process."""

from __future__ import annotations

import json
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from dataplane_nodes import TRUST_DOMAIN, Node, instance, spiffe_id
from svid_authority import Authority

CALLEE = "tool"


class Nodes:
    """A with the callers, B with the callee.

    Args:
        folder: for their files.
        origin: the callee's socket.
        count: of callers.
    """

    def __init__(self, folder: Path, origin: Path, count: int) -> None:
        authority = Authority(TRUST_DOMAIN)
        self._callers = [f"caller-{number}" for number in range(count)]
        self._a = Node(folder / "a", authority, caller=None, on_event=self._admit)
        self._b = Node(folder / "b", authority, caller=None, listens={CALLEE: origin})
        for node, listen in ((self._a, None), (self._b, origin)):
            described = [*(described_as(each, None) for each in self._callers), described_as(CALLEE, listen)]
            node.plane.set_components(json.dumps(described))
        for each in self._callers:
            self._a.give(each)
        self._inodes: list[int] = []
        write_svid(authority, self._callers[0], folder / "client")

    def start(self) -> int:
        """B's port, once calls go through."""
        self._b.start()
        self._a.start()
        self._a.route(tool=self._b.port)
        self.set_policies(1)
        return self._b.port

    def set_policies(self, count: int) -> float:
        """So many policies on both: one for each caller, and the rest about others. How long one took, in seconds."""
        pairs = [(each, CALLEE) for each in self._callers]
        pairs += [(f"stranger-{number}", f"tool-{number % 100}") for number in range(count - len(pairs))]
        pieces = [policy(number, *pair) for number, pair in enumerate(pairs)]
        sets = json.dumps([{"name": "bench", "layer": "documents", "observe": False, "pieces": pieces}])
        entities = [entity(each) for each in (*self._callers, CALLEE)]
        facts = json.dumps({"entities": entities, "risks": {}, "locations": [], "threats": [], "evidence": {}})
        began = time.perf_counter()
        self._a.plane.set_policy_sets(sets, facts)
        took_s = time.perf_counter() - began
        self._b.plane.set_policy_sets(sets, facts)
        return took_s

    def _admit(self, event: dict) -> bool:
        if event["event"] != "caller_seen":
            return False
        name = self._callers[len(self._inodes) % len(self._callers)]
        self._inodes.append(event["pidfd_inode"])
        self._a.plane.admit_caller(event["pidfd_inode"], instance(name), f"crm/{name}")
        return True


def described_as(name: str, listen: Path | None) -> dict:
    """A component as the broker tells its data plane."""
    return {
        "component": f"crm/{name}",
        "agent": "crm",
        "name": name,
        "spiffe_id": spiffe_id(name),
        "listen": str(listen) if listen else None,
        "listen_host": None,
        "may_start": name != CALLEE,
    }


def entity(name: str) -> dict:
    """The same for its policies."""
    attributes = {"documented": True, "trust_domain": TRUST_DOMAIN, "agent": "crm", "name": name}
    return {"uid": {"type": "Hopseal::Component", "id": spiffe_id(name)}, "attrs": attributes, "parents": []}


def policy(number: int, caller: str, callee: str) -> str:
    """As documents are compiled: a caller, a callee, some operations."""
    principal, resource = (f"Hopseal::Component::{json.dumps(spiffe_id(each))}" for each in (caller, callee))
    operations = 'context.http like "GET /*" || context.http like "POST /*"'
    return (
        f'@id("policy-{number}") permit (principal == {principal}, action == Hopseal::Action::"call", '
        f"resource == {resource}) when {{ {operations} }};"
    )


def write_svid(authority: Authority, name: str, path: Path) -> None:
    """A component's certificate and key, as a peer has them."""
    svid = authority.issue(spiffe_id(name))
    leaf = x509.load_der_x509_certificate(svid.chain_der[0])
    path.with_suffix(".pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    key = load_der_private_key(svid.key_pkcs8, None)
    path.with_suffix(".key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
