"""Verification of chains from log entries alone: what holds, and what each single change is called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from custody_calls import AUTHORITY, Node, begin, call, fresh_id, go_on, root, signer
from custody_logs import LogFile
from hopseal.custody.authority import Authority, Narrowing
from hopseal.custody.delegation import OnBehalfOf
from hopseal.custody.errors import Code
from hopseal.custody.receiver import Accepted
from hopseal.custody.record import Record, parse_sealed_record
from hopseal.custody.seal import Signer
from hopseal.custody.sender import build_sibling, seal_records
from hopseal.ids import SpiffeId
from hopseal.log.entries import Direction
from hopseal.log.offline import ChainReport, HopReport, verify_chain_offline
from vectors import pki
from vectors.pki import NOW, Party, spiffe
from vectors.scene import some_hash, twin


@dataclass
class Task:
    """shell -> orchestrator -> reasoner -> connector, and orchestrator -> connector; as two nodes log it."""

    first: Accepted = field(init=False)
    second: Accepted = field(init=False)
    third: Accepted = field(init=False)
    branch: Accepted = field(init=False)
    left: LogFile = field(default_factory=lambda: LogFile("left"))
    right: LogFile = field(default_factory=lambda: LogFile("right"))

    def __post_init__(self) -> None:
        orchestrator, reasoner, connector = Node("orchestrator"), Node("reasoner"), Node("crm-connector")
        self.first = begin("shell", orchestrator)
        self.second = go_on(self.first, orchestrator, reasoner, Narrowing(hops=2))
        self.third = go_on(self.second, reasoner, connector, Narrowing(ops=("tools/call crm.lookup",)))
        self.branch = go_on(self.first, orchestrator, connector)

    @property
    def cid(self) -> str:
        return self.first.newest.record.cid

    def log(self) -> Task:
        """Left holds shell, orchestrator and reasoner; right the connector."""
        for accepted in (self.first, self.second):
            self.left.sent(accepted.newest.text)
            self.left.received(accepted)
        for accepted in (self.third, self.branch):
            self.left.sent(accepted.newest.text)
            self.right.received(accepted)
        return self

    def report(self) -> ChainReport:
        return verify_chain_offline((*self.left.entries(), *self.right.entries()), self.cid)


@pytest.fixture
def task() -> Task:
    return Task()


def flat(hops: tuple[HopReport, ...]) -> Iterator[HopReport]:
    for hop in hops:
        yield hop
        yield from flat(hop.children)


def codes(report: ChainReport) -> dict[str, str | None]:
    return {f"{hop.record.hop} {hop.record.iss.path.rpartition('/')[2]}": hop.code for hop in flat(report.roots)}


def test_a_task_over_two_nodes_is_one_verified_tree(task: Task) -> None:
    report = task.log().report()
    assert report.verified
    (top,) = report.roots
    assert (top.hash, [child.hash for child in top.children]) == (
        task.first.newest.hash,
        [each.newest.hash for each in sorted((task.second, task.branch), key=lambda each: each.newest.record.jti)],
    )
    assert codes(report) == {"0 shell": None, "1 orchestrator": None, "2 reasoner": None}
    assert len(list(flat(report.roots))) == 4


def test_each_hop_tells_authority_and_where_it_was_seen(task: Task) -> None:
    report = task.log().report()
    hops = {hop.hash: hop for hop in flat(report.roots)}
    second, third = hops[task.second.newest.hash], hops[task.third.newest.hash]
    assert (second.authority_before, second.authority_after) == (AUTHORITY, replace(AUTHORITY, hops=2))
    assert third.authority_after == Authority(AUTHORITY.exp, 2, ops=("tools/call crm.lookup",))
    assert [(each.node, each.direction) for each in third.sightings] == [
        ("left", Direction.SENT),
        ("right", Direction.RECEIVED),
    ]


def test_one_log_is_enough_if_it_holds_the_ancestors(task: Task) -> None:
    task.right.received(task.third)
    report = task.report()
    assert report.verified
    assert [len(hop.sightings) for hop in flat(report.roots)] == [0, 0, 1]


def test_an_unknown_chain_is_empty_and_not_verified(task: Task) -> None:
    report = verify_chain_offline(task.log().left.entries(), fresh_id())
    assert (report.roots, report.rejected, report.verified) == ((), (), False)


def test_a_hop_cut_out_leaves_an_orphan(task: Task) -> None:
    task.left.received(task.first)
    task.left.sent(task.third.newest.text)
    report = task.report()
    assert codes(report) == {"0 shell": None, "2 reasoner": Code.UNRESOLVED}
    assert not report.verified


def sealed(record: Record, party: Party, **changes: object) -> str:
    maker = replace(signer(party), **changes)
    assert isinstance(maker, Signer)
    return seal_records([record], maker, NOW)[0]


def child_of(accepted: Accepted, caller: str, callee: str, **changes: object) -> Record:
    newest = accepted.newest.record
    given = call(caller, callee)
    base = Record(given.iss, given.aud, NOW, NOW + 30, given.jti, newest.cid, newest.hop + 1, given.rqb)
    return replace(base, **{"prev": accepted.newest.hash} | changes)


def last_code(task: Task, record: Record, party: Party, **changes: object) -> str | None:
    """What a record logged as sent after the first hop is called."""
    text = sealed(record, party, **changes)
    task.left.received(task.first)
    task.left.sent(text)
    report = task.report()
    found = next(hop for hop in flat(report.roots) if hop.hash == parse_sealed_record(text).hash)
    assert report.verified == (found.code is None)
    return found.code


def test_a_right_record_holds(task: Task) -> None:
    assert last_code(task, child_of(task.first, "orchestrator", "reasoner"), pki.ORCHESTRATOR) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"hop": 2}, Code.CHAIN),
        ({"iss": SpiffeId.parse(spiffe("reasoner"))}, Code.IDENTITY),
        ({"iat": NOW - 11, "exp": NOW}, Code.CHAIN),
        ({"att": Narrowing(hops=6)}, Code.AUTHORITY),
        ({"att": Narrowing(hops=0)}, Code.AUTHORITY),
        ({"att": Narrowing(exp=NOW)}, Code.AUTHORITY),
        ({"att": Narrowing(aud=(spiffe("guard"),))}, Code.AUTHORITY),
        ({"prev": some_hash("elsewhere")}, Code.UNRESOLVED),
        ({"root_claims": frozenset({"obo"})}, Code.CHAIN),
    ],
)
def test_a_wrong_claim_is_found(task: Task, changes: dict[str, object], code: Code) -> None:
    assert last_code(task, child_of(task.first, "orchestrator", "reasoner", **changes), pki.ORCHESTRATOR) == code


def test_a_stolen_chain_is_found(task: Task) -> None:
    assert last_code(task, child_of(task.first, "reasoner", "crm-connector"), pki.REASONER) == Code.CHAIN


def test_a_record_sealed_with_another_key_is_found(task: Task) -> None:
    record = child_of(task.first, "orchestrator", "reasoner")
    assert last_code(task, record, pki.ORCHESTRATOR, key=pki.key_of("somebody else")) == Code.SIGNATURE


def test_a_certificate_that_no_log_holds_is_found(task: Task) -> None:
    unknown = pki.svid(spiffe("orchestrator"), seed="not logged")
    assert last_code(task, child_of(task.first, "orchestrator", "reasoner"), unknown) == Code.UNRESOLVED


def test_a_partners_certificate_for_our_id_is_found(task: Task) -> None:
    minted = pki.svid(spiffe("orchestrator"), "partner CA")
    task.left.certificate(minted.der)
    task.left.bundle(pki.PARTNER, pki.PARTNER_CA.der)
    assert last_code(task, child_of(task.first, "orchestrator", "reasoner"), minted) == Code.UNTRUSTED


def test_what_continues_an_unverified_record_is_not_verified(task: Task) -> None:
    parent = child_of(task.first, "orchestrator", "reasoner", att=Narrowing(hops=6))
    parent_text = sealed(parent, pki.ORCHESTRATOR)
    child = replace(
        child_of(task.first, "reasoner", "crm-connector"), hop=2, prev=parse_sealed_record(parent_text).hash
    )
    task.left.received(task.first)
    task.left.sent(parent_text)
    task.left.sent(sealed(child, pki.REASONER))
    assert codes(task.report()) == {"0 shell": None, "1 orchestrator": Code.AUTHORITY, "2 reasoner": Code.CHAIN}


def test_a_spliced_record_is_an_orphan_of_its_own_chain(task: Task) -> None:
    other = begin("shell", Node("orchestrator"))
    spliced = child_of(task.first, "orchestrator", "reasoner", cid=other.newest.record.cid)
    task.left.received(task.first)
    task.left.received(other)
    task.left.sent(sealed(spliced, pki.ORCHESTRATOR))
    report = verify_chain_offline(task.left.entries(), other.newest.record.cid)
    assert codes(report) == {"0 shell": None, "1 orchestrator": Code.UNRESOLVED}


def test_sibling_roots_of_one_component_are_one_chain(task: Task) -> None:
    task.left.received(task.first)
    sibling = build_sibling(call("shell", "reasoner"), task.first.newest.record)
    task.left.sent(sealed(sibling, pki.SHELL))
    report = task.report()
    assert report.verified
    assert len(report.roots) == 2


def test_roots_of_two_components_are_none(task: Task) -> None:
    task.left.received(task.first)
    task.left.sent(sealed(root("reasoner", "crm-connector", cid=task.cid), pki.REASONER))
    assert codes(task.report()) == {"0 shell": Code.CHAIN, "0 reasoner": Code.CHAIN}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"prev": some_hash("x")}, Code.UNRESOLVED),
        ({"att": Narrowing(hops=1)}, Code.CHAIN),
        ({"auth": None, "root_claims": frozenset({"obo", "task"})}, Code.AUTHORITY),
        ({"auth": Authority(NOW + 7200, 3)}, Code.AUTHORITY),
    ],
)
def test_a_wrong_root_is_found(task: Task, changes: dict[str, object], code: Code) -> None:
    wrong = replace(root("shell", "reasoner", cid=task.cid), **changes)
    task.left.sent(sealed(wrong, pki.SHELL))
    assert list(codes(task.report()).values()) == [code]


def test_a_record_accepted_by_two_nodes_is_a_replay(task: Task) -> None:
    task.left.received(task.first)
    task.right.received(task.first)
    assert codes(task.report()) == {"0 shell": Code.REPLAYED}


def test_one_log_given_twice_is_no_replay(task: Task) -> None:
    task.left.received(task.first)
    entries = task.left.entries()
    assert verify_chain_offline((*entries, *entries), task.cid).verified


def test_two_records_with_one_jti_are_a_replay(task: Task) -> None:
    first = root("shell", "reasoner", cid=task.cid)
    for record in (first, replace(first, aud=spiffe("orchestrator"))):
        task.left.sent(sealed(record, pki.SHELL))
    assert [hop.code for hop in task.report().roots] == [Code.REPLAYED] * 2


def test_both_logged_forms_of_a_statement_must_hold(task: Task) -> None:
    text = task.first.newest.text
    task.left.sent(twin(text))
    task.right.received(task.first)
    assert task.report().verified
    task.left.sent(f"{text.rpartition('.')[0]}.{'A' * 86}")
    assert codes(task.report()) == {"0 shell": Code.SIGNATURE}


def test_refused_messages_are_told_apart(task: Task) -> None:
    task.left.received(task.first)
    task.left.received(task.first, verdict="refused", code="custody_replayed", detail="again")
    task.left.received(task.second, verdict="refused", code=None, sealed=None)
    other = begin("shell", Node("orchestrator"))
    task.left.received(other, verdict="refused", code="custody_expired")
    task.left.received(other)
    report = task.report()
    assert report.verified
    assert [(each.node, each.code, each.detail) for each in report.rejected] == [
        ("left", "custody_replayed", "again"),
        ("left", "custody_malformed", ""),
    ]
    assert report.rejected[0].unverified_iss == spiffe("shell")


@pytest.mark.parametrize("changes", [{"sealed": None}, {"sealed": "not sealed"}, {"ancestors": ["not sealed"]}])
def test_an_accepted_entry_that_cannot_be_read_is_a_contradiction(task: Task, changes: dict[str, object]) -> None:
    task.left.received(task.first)
    assert task.report().verified
    task.left.received(task.second, **changes)
    report = task.report()
    assert not report.verified
    assert [(each.node, each.code) for each in report.contradictions] == [("left", "log_contradiction")]
    other = begin("shell", Node("orchestrator"))
    task.left.received(other)
    assert verify_chain_offline(task.left.entries(), other.newest.record.cid).verified


@pytest.mark.parametrize("name", ["iss", "aud", "jti", "cid", "op"])
def test_claims_beside_a_record_that_are_not_its_own_are_a_contradiction(task: Task, name: str) -> None:
    task.left.received(task.first, **{name: "changed"})
    report = task.report()
    assert [hop.code for hop in report.roots] == [None]
    assert not report.verified
    assert len(report.contradictions) == 1


@pytest.mark.parametrize("name", ["exp", "hop"])
def test_numbers_beside_a_record_that_are_not_its_own_are_a_contradiction(task: Task, name: str) -> None:
    task.left.received(task.first, **{name: 7})
    assert len(task.report().contradictions) == 1


def test_entries_that_tell_of_different_arguments_of_one_call_are_a_contradiction(task: Task) -> None:
    one, other = some_hash("one"), some_hash("other")
    task.left.received(task.first)
    task.left.sent(task.first.newest.text, args_hash=one)
    assert task.report().verified
    task.right.sent(task.first.newest.text, args_hash=other)
    report = task.report()
    assert not report.verified
    assert [(each.node, each.code) for each in report.contradictions] == [("right", "log_contradiction")]


def test_the_hash_of_a_calls_arguments_is_where_it_was_seen(task: Task) -> None:
    task.left.sent(task.first.newest.text)
    task.left.received(task.first, args_hash=some_hash("arguments"))
    seen = [each.args_hash for each in task.report().roots[0].sightings]
    assert seen == [None, some_hash("arguments")]


def test_a_record_put_under_another_chains_id_shows_there_too(task: Task) -> None:
    other = fresh_id()
    task.left.received(task.first, cid=other)
    report = verify_chain_offline(task.left.entries(), other)
    assert (report.roots, len(report.contradictions), report.verified) == ((), 1, False)


@pytest.mark.parametrize(("seen_s", "verified"), [(10, True), (11, False)])
def test_the_bundle_of_the_records_own_time_counts(task: Task, seen_s: int, verified: bool) -> None:
    """A bundle that came ten seconds after the record may have been current; a later one was not."""
    log = LogFile("left")
    log.lines = log.lines[:1]
    log.bundle(pki.PROD, pki.PARTNER_CA.der, at_ms=(NOW - 100) * 1000)
    log.bundle(pki.PROD, pki.PROD_CA.der, at_ms=(NOW + seen_s) * 1000)
    log.certificate(pki.SHELL.der)
    log.received(task.first)
    assert verify_chain_offline(log.entries(), task.cid).verified == verified


@pytest.mark.parametrize(("dropped_ms", "verified"), [(1, True), (10_000, True), (0, False), (-1, False)])
def test_an_authority_that_was_dropped_after_the_record_counts(task: Task, dropped_ms: int, verified: bool) -> None:
    """A rotation soon after a record was accepted takes nothing away from it; one before it does."""
    log = LogFile("node-z")
    log.lines.clear()
    log.bundle(pki.PROD, pki.PROD_CA.der, at_ms=(NOW - 100) * 1000)
    log.bundle(pki.PROD, pki.PARTNER_CA.der, at_ms=NOW * 1000 + dropped_ms)
    log.certificate(pki.SHELL.der)
    log.received(task.first)
    assert verify_chain_offline(log.entries(), task.cid).verified == verified


def test_before_the_first_bundle_that_first_one_counts(task: Task) -> None:
    log = LogFile("left")
    log.lines = log.lines[:1]
    log.bundle(pki.PROD, pki.PROD_CA.der, at_ms=(NOW + 600) * 1000)
    log.certificate(pki.SHELL.der)
    log.received(task.first)
    assert verify_chain_offline(log.entries(), task.cid).verified


def test_records_deeper_than_any_receiver_accepts_are_not_looked_at(task: Task) -> None:
    long = begin("shell", Node("orchestrator"), Authority(NOW + 600, hops=20))
    task.left.received(long)
    parent = long.newest
    names = ["orchestrator", "reasoner"]
    for hop in range(1, 12):
        caller, callee = names[(hop - 1) % 2], names[hop % 2]
        record = child_of(long, caller, callee, hop=hop, prev=parent.hash)
        text = sealed(record, pki.ORCHESTRATOR if caller == "orchestrator" else pki.REASONER)
        task.left.sent(text)
        parent = parse_sealed_record(text)
    report = verify_chain_offline(task.left.entries(), long.newest.record.cid)
    assert [hop.code for hop in flat(report.roots)] == [None] * 8 + [Code.TOO_LONG]


@pytest.mark.parametrize(
    ("claims", "code"),
    [(None, Code.AUTHORITY), ({"req_wl": spiffe("shell")}, None), ({"req_wl": spiffe("reasoner")}, Code.AUTHORITY)],
)
def test_a_users_chain_holds_if_a_log_kept_the_token_that_fits(
    task: Task, claims: dict[str, object] | None, code: Code | None
) -> None:
    obo = OnBehalfOf("https://tts.example.org", "user", "txn", some_hash("token"), NOW + 900)
    made = root("shell", "reasoner", cid=task.cid)
    made = replace(made, obo=obo, auth=replace(made.auth or AUTHORITY, scope=frozenset()))
    task.left.sent(sealed(made, pki.SHELL))
    if claims is not None:
        said = {"iss": obo.iss, "sub": obo.sub, "exp": obo.exp, "auth_time": 0.5}
        task.left.write({"type": "token", "th": obo.th, "kid": "k", "claims": said | claims})
    assert list(codes(task.report()).values()) == [code]
