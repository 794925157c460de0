"""An honest chain of the orchestrator and the reasoner to the tool, before a test spoils it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from dataplane_nodes import Node, spiffe_id
from dataplane_peer import Message, fresh_id, http_request
from hopseal.custody.authority import Authority as Ceiling
from hopseal.custody.headers import format_custody_fields
from hopseal.custody.record import Record, SealedRecord, parse_sealed_record
from hopseal.ids import SpiffeId
from hopseal.svid import X509Svid

PATH = ("orchestrator", "reasoner")


def record_of(message: Message) -> Record:
    assert message.record is not None
    return message.record


@dataclass
class Chain:
    """The two keys, and what every record of the chain has in common."""

    svids: dict[str, X509Svid]
    auth: Ceiling = field(default_factory=lambda: Ceiling(exp=int(time.time()) + 600, hops=7))
    cid: str = field(default_factory=fresh_id)

    @classmethod
    def of(cls, node: Node, **svids: X509Svid) -> Chain:
        return cls({name: svids.get(name) or node.authority.issue(spiffe_id(name)) for name in PATH})

    def seal(self, by: str, record: Record) -> SealedRecord:
        return parse_sealed_record(Message(self.svids[by], record=record).sealed())

    def root(self, **claims: object) -> SealedRecord:
        first = record_of(Message(self.svids["orchestrator"]))
        claims = {"aud": spiffe_id("reasoner"), "cid": self.cid, "auth": self.auth} | claims
        return self.seal("orchestrator", replace(first, **claims))

    def hop(self, parent: SealedRecord, by: str = "reasoner", **claims: object) -> SealedRecord:
        """What continues ``parent``, bound to the request that :meth:`wire` sends."""
        linked = {
            "iss": SpiffeId.parse(spiffe_id(by)),
            "cid": parent.record.cid,
            "hop": parent.record.hop + 1,
            "prev": parent.hash,
            "root_claims": frozenset(),
            "task": None,
            "auth": None,
        }
        return self.seal(by, replace(record_of(Message(self.svids[by])), **(linked | claims)))

    def wire(self, *chain: SealedRecord) -> bytes:
        """The request that carries ``chain``, oldest first; the honest chain if none is given."""
        root = None if chain else self.root()
        *ancestors, newest = chain or (root, self.hop(root))
        message = Message(self.svids[PATH[-1]])
        certs = [each.chain_der[0] for each in self.svids.values()]
        fields = format_custody_fields(newest.text, [each.text for each in ancestors], certs)
        return http_request(message.method, message.path, [("host", "x"), *message.headers, *fields], message.body)
