"""Evidence of one task over two nodes, as their brokers log it and a witness cosigns it; every part can be changed.

shell → orchestrator → reasoner, then orchestrator → connector, based on the reasoner's answer. The left node holds
shell, orchestrator and reasoner, the right one the connector.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from hopseal.custody.authority import Authority
from hopseal.custody.closing import Closing
from hopseal.custody.delegation import OnBehalfOf, Task
from hopseal.custody.evidence_statement import EvidenceStatement, LogKey, Verdict
from hopseal.custody.kids import Kids, kids_of
from hopseal.custody.merkle import hash_leaf, hash_node
from hopseal.custody.observation import Observation
from hopseal.custody.outcome import Fin, Outcome, Taken
from hopseal.custody.receipt import Receipt
from hopseal.custody.record import Record, parse_sealed_record
from hopseal.custody.seal import Signer, seal_statements, thumbprint
from hopseal.custody.segment import Segment
from hopseal.custody.statement import Statement, encode_statement, parse_sealed_statement, type_of
from hopseal.ids import SpiffeId
from hopseal.log.audit.report import AuditReport, HopAudit
from hopseal.log.audit.run import audit_bundle
from hopseal.log.audit.trust import TrustPolicy
from hopseal.log.bundle import EvidenceBundle
from hopseal.log.checkpoint import Checkpoint
from hopseal.log.collect import SourceLog, collect
from hopseal.log.cosignature import cosign
from hopseal.log.entries import format_line
from hopseal.log.history import PastCheckpoint, format_past_checkpoint
from hopseal.log.leaf import leaf_of_line
from hopseal.log.log_key import sign_checkpoint
from hopseal.log.note import parse_note
from hopseal.log.policy import Policy, parse_policy
from hopseal.log.proof import Proof
from hopseal.log.selection import Selection
from hopseal.log.signers import KeySigner, log_signer, witness_signer
from hopseal.log.tiles import TILE_WIDTH, tiles_of
from hopseal.log.tree import build_inclusion_proof, read_root
from vectors import pki
from vectors.pki import NOW, Party, spiffe
from vectors.scene import random_id, some_hash

YEARS_LATER = NOW + 5 * 365 * 86_400
AUTHORITY = Authority(exp=NOW + 600, hops=5, scope=frozenset({"crm.read", "crm.write"}))
USER = "user-4711"
TOKEN = {"iss": "https://tts.example.org", "sub": USER, "txn": "txn-1", "exp": NOW + 900, "scope": "crm.read crm.write"}
PARTIES = {
    "shell": pki.SHELL,
    "orchestrator": pki.ORCHESTRATOR,
    "reasoner": pki.REASONER,
    "crm-connector": pki.CONNECTOR,
}
BROKERS = {name: pki.svid(f"spiffe://{pki.PROD}/hopseal/broker/{name}") for name in ("left", "right")}
NODES = {"shell": "left", "orchestrator": "left", "reasoner": "left", "crm-connector": "right"}


def ed25519(seed: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())


WITNESS = witness_signer("witness.example.net/w1", ed25519("witness 1"))
OTHER_WITNESS = witness_signer("witness.example.com/w2", ed25519("witness 2"))


def seal(statement: Statement, party: Party) -> str:
    return seal_statements([encode_statement(statement)], Signer(party.der, party.key, deterministic=True))[0]


def hash_of(text: str) -> str:
    return parse_sealed_statement(text).hash


@dataclass
class NodeLog:
    """The log of one node, its tree and its cosigned checkpoints."""

    name: str
    witnesses: tuple[KeySigner, ...] = (WITNESS,)
    lines: list[bytes] = field(default_factory=list)
    checkpoints: list[tuple[int, bytes]] = field(default_factory=list)
    hashes: dict[tuple[int, int], bytes] = field(default_factory=dict)
    key: KeySigner = field(init=False)

    def __post_init__(self) -> None:
        self.key = log_signer(self.origin, ed25519(f"log of {self.name}"))

    @property
    def origin(self) -> str:
        return f"custody.{pki.PROD}/{self.name}"

    def write(self, at: int, **members: Any) -> int:
        document = {"n": len(self.lines), "at_ms": at * 1000, **members}
        self.lines.append(json.dumps(document, separators=(",", ":")).encode())
        return len(self.lines) - 1

    def statement(self, text: str, direction: str, at: int, **changes: Any) -> int:
        return self.write(at, **(statement_line(text, direction) | changes))

    def certificate(self, der: bytes, at: int) -> int:
        return self.write(at, type="cert", x5t=thumbprint(der), der=base64.b64encode(der).decode())

    def bundle(self, at: int, *ders: bytes, trust_domain: str = pki.PROD) -> int:
        x509 = [base64.b64encode(der).decode() for der in ders]
        return self.write(at, type="bundle", td=trust_domain, sequence=1, x509=x509)

    def read(self, level: int, index: int) -> bytes:
        if (level, index) not in self.hashes:
            if level == 0:
                self.hashes[level, index] = hash_leaf(leaf_of_line(self.lines[index]))
            else:
                pair = (self.read(level - 1, 2 * index), self.read(level - 1, 2 * index + 1))
                self.hashes[level, index] = hash_node(*pair)
        return self.hashes[level, index]

    def checkpoint(self, at: int) -> None:
        """Sign the tree as it is and have it cosigned at ``at``."""
        size = len(self.lines)
        checkpoint = Checkpoint(self.origin, size, read_root(size, self.read))
        note = parse_note(sign_checkpoint(checkpoint, self.key))
        cosigned = tuple(cosign(checkpoint, each, at) for each in self.witnesses)
        self.checkpoints.append((size, replace(note, signatures=note.signatures + cosigned).encode()))

    def prove(self, index: int) -> str | None:
        for size, note in self.checkpoints:
            if index < size:
                return Proof(index, build_inclusion_proof(index, size, self.read), note).encode().decode()
        return None

    def save(self, folder: Path) -> Path:
        """The broker's state folder, as it would be on disk."""
        (folder / "log").mkdir(parents=True)
        (folder / "log" / "custody.log").write_bytes(b"".join(map(format_line, self.lines)))
        history = folder / "tlog" / "history"
        history.mkdir(parents=True)
        past = [PastCheckpoint(NOW, size, note) for size, note in self.checkpoints]
        (history / "2026112212.jsonl").write_bytes(b"".join(map(format_past_checkpoint, past)))
        for size, note in self.checkpoints:
            (folder / "tlog" / "checkpoint").write_bytes(note)
            for tile in tiles_of(size):
                if tile.level is not None:
                    path = folder / "tlog" / tile.path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    first = tile.index * TILE_WIDTH
                    hashes = (self.read(8 * tile.level, first + each) for each in range(tile.width))
                    path.write_bytes(b"".join(hashes))
        return folder

    def source(self) -> SourceLog:
        return SourceLog(self.origin, str(self.key.key), lambda: enumerate(self.lines), self.prove)


def statement_line(text: str, direction: str) -> dict[str, Any]:
    """What a journal says of an accepted statement, without ancestors."""
    statement = parse_sealed_statement(text).claims
    common = {"type": type_of(statement), "dir": direction, "verdict": "accepted", "code": None, "detail": None}
    if isinstance(statement, Record):
        names = ("jti", "exp", "cid", "hop", "op")
        claims = {name: getattr(statement, name) for name in names}
        return common | {"sealed": text, "iss": str(statement.iss), "aud": statement.aud} | claims
    if isinstance(statement, EvidenceStatement):
        return common | {"sealed": text}
    body = statement if isinstance(statement, Closing | Segment) else statement.outcome
    claims = {"iss": str(body.iss), "aud": str(body.aud), "cid": body.cid, "rec": body.rec}
    return common | {"sealed": text} | claims | ({"st": body.st} if isinstance(body, Outcome) else {})


@dataclass
class Scene:
    """Two logs and what the components said; ``at`` is the clock of both nodes."""

    left: NodeLog = field(default_factory=lambda: NodeLog("left"))
    right: NodeLog = field(default_factory=lambda: NodeLog("right"))
    parties: dict[str, Party] = field(default_factory=lambda: dict(PARTIES))
    at: int = NOW
    cid: str = field(default_factory=lambda: random_id("audited chain"))
    obo: OnBehalfOf | None = None
    numbers: int = 0

    def begin(self) -> Scene:
        for log in (self.left, self.right):
            log.write(self.at, type="start", node=log.name, version="0.1.0")
            log.bundle(self.at, pki.PROD_CA.der)
            log.certificate(BROKERS[log.name].der, self.at)
            log.write(self.at, type="attest", sealed=seal(self.announcement(log), BROKERS[log.name]))
            for name, party in self.parties.items():
                if NODES[name] == log.name:
                    log.certificate(party.der, self.at)
        return self

    def announcement(self, node: NodeLog, **changes: Any) -> EvidenceStatement:
        broker = SpiffeId.parse(f"spiffe://{pki.PROD}/hopseal/broker/{node.name}")
        x5t = thumbprint(BROKERS[node.name].der)
        said = EvidenceStatement(
            iss=broker,
            iat=self.at,
            exp=self.at + 600,
            jti=self.fresh(),
            sub=broker,
            sx=x5t,
            verdict=Verdict.ATTESTED,
            log=LogKey(node.origin, str(node.key.key)),
        )
        return replace(said, **changes)

    def log_of(self, component: str) -> NodeLog:
        return self.left if NODES.get(component) == "left" else self.right

    def fresh(self) -> str:
        self.numbers += 1
        return random_id(f"audit {self.numbers} {self.cid}")

    def record(self, caller: str, callee: str, parent: str | None = None, **changes: Any) -> Record:
        aud = callee if callee.startswith("https:") else spiffe(callee)
        base = Record(
            iss=SpiffeId.parse(spiffe(caller)),
            aud=aud,
            iat=self.at,
            exp=self.at + 30,
            jti=self.fresh(),
            cid=self.cid,
            hop=0,
            rqb=some_hash(f"request {self.numbers}"),
            op=f"POST /{callee.rpartition('/')[2]}",
        )
        if parent is None:
            claims = frozenset({"obo", "task", "auth"})
            base = replace(base, root_claims=claims, obo=self.obo, task=Task("task-1"))
            base = replace(base, auth=replace(AUTHORITY, exp=self.at + 600))
        else:
            above = parse_sealed_record(parent)
            base = replace(base, prev=above.hash, hop=above.record.hop + 1)
        return replace(base, **changes)

    def call(self, caller: str, callee: str, parent: str | None = None, **changes: Any) -> str:
        """A call that both nodes log."""
        text = seal(self.record(caller, callee, parent, **changes), self.parties[caller])
        self.log_call(text, caller, callee)
        return text

    def log_call(self, text: str, caller: str, callee: str) -> None:
        self.log_of(caller).statement(text, "sent", self.at)
        if not callee.startswith("https:"):
            self.log_of(callee).statement(text, "received", self.at, ancestors=[])

    def outcome(self, record: str, kids: Kids = (), **changes: Any) -> Outcome:
        claims = parse_sealed_record(record).record
        made = Outcome(
            iss=claims.iss if claims.aud.startswith("https:") else SpiffeId.parse(claims.aud),
            aud=claims.iss,
            iat=self.at,
            jti=self.fresh(),
            cid=claims.cid,
            rec=hash_of(record),
            st=200,
            rsb=some_hash(f"response {self.numbers}"),
            length=2,
            cd=some_hash(f"body {self.numbers}"),
            fin=Fin.EOF,
            kids=kids,
        )
        return replace(made, **changes)

    def answer(self, record: str, *kids: str, **changes: Any) -> str:
        """The receipt of a call, which both nodes log."""
        outcome = self.outcome(record, kids_of([hash_of(each) for each in kids]), **changes)
        callee, caller = (str(each).rpartition("/")[2] for each in (outcome.iss, outcome.aud))
        text = seal(Receipt(outcome), self.parties[callee])
        self.log_of(callee).statement(text, "sent", self.at)
        self.log_of(caller).statement(text, "received", self.at)
        return text

    def observe(self, record: str, **changes: Any) -> str:
        """What the caller saw of a server that makes no receipts."""
        outcome = self.outcome(record, **changes)
        caller = str(outcome.iss).rpartition("/")[2]
        observation = Observation(outcome, "api.crm.example.com", some_hash("server key"))
        text = seal(observation, self.parties[caller])
        self.log_of(caller).statement(text, "sent", self.at)
        return text

    def close(self, record: str, **changes: Any) -> str:
        claims = parse_sealed_record(record).record
        made = Closing(
            iss=claims.iss,
            aud=SpiffeId.parse(claims.aud),
            iat=self.at,
            jti=self.fresh(),
            cid=claims.cid,
            rec=hash_of(record),
            cd=some_hash("streamed"),
            length=9,
            fin=Fin.EOF,
        )
        closing = replace(made, **changes)
        caller, callee = (str(each).rpartition("/")[2] for each in (closing.iss, closing.aud))
        text = seal(closing, self.parties[caller])
        self.log_of(caller).statement(text, "sent", self.at)
        self.log_of(callee).statement(text, "received", self.at)
        return text

    def segment(self, record: str, maker: str, up: Taken, down: Taken, **changes: Any) -> str:
        """What the broker of ``maker`` saw pass, in its own log only."""
        claims = parse_sealed_record(record).record
        other = claims.aud if str(claims.iss).endswith(f"/{maker}") else str(claims.iss)
        made = Segment(
            iss=SpiffeId.parse(str(claims.iss).rpartition("/")[0] + f"/{maker}"),
            aud=SpiffeId.parse(other),
            iat=self.at,
            jti=self.fresh(),
            cid=claims.cid,
            rec=hash_of(record),
            seq=0,
            up=up,
            down=down,
        )
        text = seal(replace(made, **changes), self.parties[maker])
        self.log_of(maker).statement(text, "sent", self.at)
        return text

    def witness(self, after: int = 2) -> Scene:
        """Both logs are cosigned, some seconds later."""
        for log in (self.left, self.right):
            log.checkpoint(self.at + after)
        return self

    def bundle(self, selection: Selection | None = None) -> EvidenceBundle:
        return collect((self.left.source(), self.right.source()), selection or Selection()).bundle

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Both nodes' state folders."""
        return self.left.save(folder / "left"), self.right.save(folder / "right")

    def policy(self, *lines: str) -> Policy:
        text = [f"log {log.key.key}" for log in (self.left, self.right)]
        text += lines or (f"witness w1 {WITNESS.key}", "quorum w1")
        return parse_policy("".join(f"{line}\n" for line in text).encode())

    def audit(
        self,
        bundle: EvidenceBundle | None = None,
        *,
        policy: Policy | None = None,
        trust: TrustPolicy | None = None,
        now: int = YEARS_LATER,
    ) -> AuditReport:
        return audit_bundle(bundle or self.bundle(), policy or self.policy(), trust or TrustPolicy(), now)


@dataclass
class Story:
    """The whole task, by name."""

    scene: Scene
    first: str
    ask: str
    told: str
    lookup: str
    found: str
    done: str

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.first, self.ask, self.told, self.lookup, self.found, self.done)


def tell(scene: Scene | None = None, **lookup: Any) -> Story:
    """The task from begin to end, not yet witnessed."""
    scene = (scene or Scene()).begin()
    first = scene.call("shell", "orchestrator")
    ask = scene.call("orchestrator", "reasoner", first)
    told = scene.answer(ask)
    based_on = {"based_on": (hash_of(told),)} | lookup
    asked = scene.call("orchestrator", "crm-connector", first, **based_on)
    found = scene.answer(asked)
    done = scene.answer(first, told, found)
    return Story(scene, first, ask, told, asked, found, done)


def witnessed(scene: Scene | None = None, **lookup: Any) -> Story:
    story = tell(scene, **lookup)
    story.scene.witness()
    return story


def several_chains(count: int = 3) -> tuple[Scene, list[str]]:
    """Chains of two hops with their answers; the first records of each."""
    scene, roots = Scene().begin(), []
    for number in range(count):
        scene.cid = random_id(f"chain {number}")
        root = scene.call("shell", "orchestrator")
        below = scene.call("orchestrator", "reasoner", root)
        scene.answer(root, scene.answer(below))
        roots.append(root)
    return scene, roots


def hops(report: AuditReport) -> dict[str, HopAudit]:
    """Every hop of a report, by statement hash."""
    return {hop.sealed.hash: hop for chain in report.chains for hop in chain.hops()}


def pem_of(party: Party) -> str:
    return x509.load_der_x509_certificate(party.der).public_bytes(Encoding.PEM).decode()


def trust_file(trust_domain: str = pki.PROD, *, others: str = "refuse", **domain: object) -> dict[str, object]:
    """A trust policy as a file has it."""
    return {"v": 1, "type": "hopseal-trust", "others": others, "trust_domains": {trust_domain: domain}}


def without(bundle: EvidenceBundle, *texts: str) -> EvidenceBundle:
    return replace(bundle, statements=tuple(each for each in bundle.statements if each.sealed not in texts))


def mapped(bundle: EvidenceBundle, change: Callable[[str], str]) -> EvidenceBundle:
    """Every proof changed."""
    return replace(bundle, proofs={key: tuple(map(change, texts)) for key, texts in bundle.proofs.items()})
