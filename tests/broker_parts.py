"""Documents and configurations for the broker's tests."""

from __future__ import annotations

from pathlib import Path

from broker.policy.sets import document_sets
from hopseal.documents.model import (
    Agent,
    AgentStatus,
    AttestBlock,
    Call,
    Component,
    DocumentSet,
    HumanOversight,
    Role,
)
from hopseal.ids import SpiffeId, TrustDomain

TRUST_DOMAIN = TrustDomain.parse("example.org")


def component(name: str, *, agent: str = "crm", calls: tuple[Call, ...] = (), **fields) -> Component:
    fields.setdefault("may_start", True)
    fields.setdefault("spiffe_id", SpiffeId.parse(f"spiffe://example.org/agents/{agent}/{name}"))
    return Component(agent, name, Role.CONNECTOR, attest=(AttestBlock(uid=7),), calls=calls, **fields)


def agent(*components: Component, name: str = "crm", status: AgentStatus = AgentStatus.ACTIVE) -> Agent:
    return Agent(
        name,
        "1",
        "test",
        "me@example.org",
        "team-a",
        status,
        (),
        (),
        HumanOversight(),
        tuple(components),
        f"{name}.yaml",
    )


def documents(*components: Component, status: AgentStatus = AgentStatus.ACTIVE, sha256: str = "0" * 64) -> DocumentSet:
    names = sorted({each.agent for each in components})
    return DocumentSet(
        TRUST_DOMAIN,
        tuple(agent(*(c for c in components if c.agent == name), name=name, status=status) for name in names),
        sha256,
    )


def calls(to: str, *operations: str) -> Call:
    agent_name, _, component_name = to.rpartition("/")
    return Call(agent_name or "crm", component_name, operations)


DOCUMENT = """\
apiVersion: hopseal.dev/v1alpha1
kind: Agent
metadata: {name: crm}
spec:
  version: 1.0.0
  description: A test
  owner: me@example.org
  team: team-a
  status: active
  components:
    - name: front
      role: orchestrator
      mayStart: true
      attest: {uid: 4101, unsafeUidOnly: true}
      calls:
        - {to: store, operations: [POST /items]}
    - name: store
      role: connector
      attest: {uid: 4102, unsafeUidOnly: true}
      listen: unix://LISTEN
"""


def write_config(folder: Path, *, grace_s: str = "1", attestor_admin: str = "", **changes: str) -> Path:
    """A broker.yaml whose every path is in ``folder``, with documents of two components."""
    agents = folder / "agents"
    agents.mkdir(exist_ok=True)
    (agents / "crm.yaml").write_text(DOCUMENT.replace("LISTEN", str(folder / "store.sock")))
    lines = {
        "trust_domain": "example.org",
        "node": "node-1",
        "documents": str(agents),
        "state_dir": str(folder / "state"),
        "sockets": f"{{out: {folder}/call/out.sock, admin: {folder}/admin/admin.sock}}",
        "attestor": _attestor(folder, grace_s, attestor_admin),
        "peer_listen": "127.0.0.1:0",
        "metrics_listen": "127.0.0.1:0",
        **changes,
    }
    path = folder / "broker.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path


def _attestor(folder: Path, grace_s: str, admin: str) -> str:
    if admin:  # the real attestor wants each socket in a folder of its own
        api, broker = folder / "api" / "api.sock", folder / "run" / "broker.sock"
        return f"{{workload_socket: {api}, broker_socket: {broker}, admin_socket: {admin}, grace_s: {grace_s}}}"
    return f"{{workload_socket: {folder}/api.sock, broker_socket: {folder}/broker.sock, grace_s: {grace_s}}}"


def compile_policies(documents: DocumentSet) -> str:
    """The Cedar text of everything that ``documents`` permit and forbid."""
    return "\n".join(piece for each in document_sets(documents) for piece in each.pieces)
