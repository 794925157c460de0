"""Calls between the components of the vectors' PKI, made with the Python sender and judged by the receiver."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hopseal.bundle import Bundle
from hopseal.custody.authority import Authority, Narrowing
from hopseal.custody.binding import Header, bind_request
from hopseal.custody.delegation import Task
from hopseal.custody.headers import format_custody_fields
from hopseal.custody.receiver import Accepted, Receiver, ReceiverState, Request, verify_request
from hopseal.custody.record import Record
from hopseal.custody.seal import Signer
from hopseal.custody.sender import Call, build_child, build_root, random_id, seal_records
from hopseal.ids import SpiffeId, TrustDomain
from vectors import pki
from vectors.pki import NOW, Party, spiffe
from vectors.scene import BODY, TARGET, plain_headers

PROD = TrustDomain(pki.PROD)
BUNDLES = {PROD: Bundle(PROD, (pki.PROD_CA.der,))}
HEADERS: list[Header] = [(name, value) for name, value in plain_headers()]
OPERATIONS = ("tools/call crm.lookup", "POST /mcp")
AUTHORITY = Authority(exp=NOW + 600, hops=5)
TASK = Task("task-1")
PARTIES = {
    "orchestrator": pki.ORCHESTRATOR,
    "reasoner": pki.REASONER,
    "crm-connector": pki.CONNECTOR,
    "shell": pki.SHELL,
}
_numbers = itertools.count()


def fresh_id() -> str:
    return random_id(next(_numbers).to_bytes(16))


def call(caller: str, callee: str, **changes: object) -> Call:
    rqb = bind_request("POST", TARGET, HEADERS, BODY)
    made = Call(SpiffeId.parse(spiffe(caller)), spiffe(callee), NOW, fresh_id(), rqb, OPERATIONS)
    return replace(made, **changes)


def signer(party: Party) -> Signer:
    return Signer(party.der, party.key, deterministic=True)


def root(caller: str, callee: str, authority: Authority = AUTHORITY, cid: str | None = None) -> Record:
    return build_root(call(caller, callee), cid=cid or fresh_id(), task=TASK, auth=authority)


@dataclass
class Node:
    """One component that receives, with its own state."""

    name: str
    state: ReceiverState = field(default_factory=ReceiverState)
    bundles: dict[TrustDomain, Bundle] = field(default_factory=lambda: dict(BUNDLES))
    accept_path: Callable[[tuple[SpiffeId, ...]], bool] = lambda _path: True

    def receive(
        self, text: str, chain: tuple[str, ...], peer: Party, certs: tuple[Party, ...] = (), now: int = NOW
    ) -> Accepted:
        headers = HEADERS + format_custody_fields(text, chain, [party.der for party in certs])
        request = Request(headers, BODY, "POST", TARGET, OPERATIONS, (peer.der,))
        receiver = Receiver(
            SpiffeId.parse(spiffe(self.name)), frozenset(), self.bundles, lambda _root: True, self.accept_path
        )
        return verify_request(request, receiver, self.state, now)


def begin(caller: str, node: Node, authority: Authority = AUTHORITY) -> Accepted:
    """A new chain from ``caller`` that ``node`` accepts."""
    text = seal_records([root(caller, node.name, authority)], signer(PARTIES[caller]), NOW)[0]
    return node.receive(text, (), PARTIES[caller])


def go_on(before: Accepted, caller: Node, callee: Node, narrowing: Narrowing | None = None) -> Accepted:
    """The next hop of an accepted chain, every ancestor and certificate inline."""
    record = build_child(call(caller.name, callee.name), before, narrowing)
    text = seal_records([record], signer(PARTIES[caller.name]), NOW)[0]
    chain = tuple(each.sealed.text for each in before.chain)
    certs = tuple(PARTIES[str(each).rpartition("/")[2]] for each in dict.fromkeys(before.path))
    return callee.receive(text, chain, PARTIES[caller.name], certs)
