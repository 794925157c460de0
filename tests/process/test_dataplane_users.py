"""On whose behalf: a user's token of a real authorization server through real data planes, and attacks on it."""

from __future__ import annotations

import hashlib
import http.server
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from broker._dataplane import DataPlaneError
from custody_refusals import refusals_in
from dataplane_chain import three_in_a_row
from dataplane_nodes import Answer, Component, Node, Seen, answer, call, components, spiffe_id
from dataplane_peer import Message, send
from hopseal.custody.authority import Authority as Ceiling
from hopseal.custody.delegation import OnBehalfOf
from hopseal.custody.record import parse_sealed_record
from hopseal.ids import SpiffeId
from hopseal.log.entries import RecordEntry
from hopseal.log.offline import verify_chain_offline
from oauth_server import Served, issuers_json
from svid_authority import Authority
from vectors.scene import b64u, unb64u
from waiting import wait_until

ORCHESTRATOR, REASONER, TOOL = map(spiffe_id, ("orchestrator", "reasoner", "tool"))


@dataclass
class Chain:
    """The orchestrator on node a, the reasoner on b, the tool on c, and an authorization server that all trust."""

    auth: Served
    a: Node
    b: Node
    c: Node
    reasoner: Component
    tool: Component
    authority: Authority
    forward: dict[str, str] = field(default_factory=dict)  # what the reasoner's framework puts into its own call
    answers: list[Answer] = field(default_factory=list)

    def txn(self, user: str = "alice", client: str = ORCHESTRATOR, scope: str = "crm.read") -> str:
        return self.auth.exchange(self.auth.log_in(user, client), client, scope)

    def call(self, headers: dict[str, str], **changes: object) -> Answer:
        return call(self.a, "reasoner.crm", headers=headers, **changes)

    def renew_keys(self) -> None:
        for node in (self.a, self.b, self.c):
            node.plane.set_issuers(issuers_json(self.auth))


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with three_in_a_row(tmp_path) as row:
        made = Chain(row.auth, row.a, row.b, row.c, row.reasoner, row.tool, row.authority)
        made.renew_keys()

        def think(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
            """A framework that passes on the handle and nothing else."""
            got = call(row.b, headers=made.forward, handle=seen.header("Custody-Handle"))
            made.answers.append(got)
            answer(handler, got.body, status=got.status)

        row.reasoner.respond = think
        yield made


def token_lines(node: Node) -> list[dict]:
    lines = (node.log_dir / "custody.log").read_bytes().rstrip(b"\0").splitlines()
    found = [json.loads(line[9:]) for line in lines]
    return [line for line in found if line["type"] == "token"]


def refused(node: Node) -> list[RecordEntry]:
    return [each for each in refusals_in(node.log_dir) if isinstance(each, RecordEntry)]


@pytest.mark.parametrize("typ", ["txn", "at"])
def test_the_user_arrives_at_the_second_hop_although_the_framework_drops_the_header(chain: Chain, typ: str) -> None:
    if typ == "txn":
        name, value = "Txn-Token", chain.txn()
    else:
        own = chain.auth.exchange(chain.auth.log_in("alice", ORCHESTRATOR), ORCHESTRATOR, txn=False)
        name, value = "Authorization", f"Bearer {own}"
    got = chain.call({name: value})
    assert got.status == 200, got.body
    for component in (chain.reasoner, chain.tool):
        assert component.seen[0].header(name) == value
    for node in (chain.a, chain.b, chain.c):
        (line,) = token_lines(node)
        assert (line["claims"]["sub"], line["kid"]) == ("alice", "key-1")
        assert not node.log().damage
    roots = [
        parse_sealed_record(each.sealed).record
        for each in chain.a.log().entries
        if isinstance(each, RecordEntry) and each.sealed
    ]
    assert [(root.iss, root.obo.sub, root.obo.typ) for root in roots] == [(roots[0].iss, "alice", typ)]
    assert roots[0].auth.scope == {"crm.read"}
    report = verify_chain_offline([*chain.b.log().entries, *chain.c.log().entries], roots[0].cid)
    assert report.verified, report


def test_no_log_and_no_event_shows_the_token(chain: Chain) -> None:
    token = chain.txn()
    chain.call({"Txn-Token": token})
    chain.call({"Txn-Token": token[:-2]})
    signature = token.rpartition(".")[2]
    for node in (chain.a, chain.b, chain.c):
        assert signature not in (node.log_dir / "custody.log").read_text()
        node.wait_for_call(code="ok")
        assert signature not in json.dumps(node.events)


def test_every_call_of_a_task_carries_the_token_that_opened_it(chain: Chain) -> None:
    token = chain.txn()
    body = json.dumps({"task": {"id": "t-1"}, "authority": {"scope": "crm.read"}}).encode()
    opened = call(chain.a, "hopseal.local", "/task", headers={"Txn-Token": token}, body=body)
    assert opened.status == 201, opened.body
    for _ in range(2):
        assert chain.call({}, handle=opened.handle).status == 200
    assert chain.call({"Txn-Token": token}, handle=opened.handle).status == 200
    assert [seen.header("Txn-Token") for seen in chain.tool.seen] == [token] * 3
    assert len(token_lines(chain.c)) == 1


def test_the_framework_may_repeat_the_token_and_bring_a_credential_of_its_own(chain: Chain) -> None:
    token = chain.txn()
    chain.forward = {"Txn-Token": token, "Authorization": "Bearer an-api-key"}
    assert chain.call({"Txn-Token": token}).status == 200
    assert chain.tool.seen[0].header("Authorization") == "Bearer an-api-key"


def test_a_workload_may_act_for_itself_with_its_own_credentials(chain: Chain) -> None:
    token = chain.auth.credentials(ORCHESTRATOR)
    assert chain.call({"Authorization": f"Bearer {token}"}).status == 200
    assert token_lines(chain.c)[0]["claims"]["sub"] == ORCHESTRATOR


def test_an_issuer_may_have_names_of_its_own_for_workloads(chain: Chain) -> None:
    chain.auth.register("crm-1")
    token = chain.auth.exchange(chain.auth.log_in("alice", "crm-1"), "crm-1", txn=False)
    headers = {"Authorization": f"Bearer {token}"}
    assert chain.call(headers).code == "user_token_invalid"
    for node in (chain.a, chain.b, chain.c):
        listed = [each | {"clients": {"crm-1": ORCHESTRATOR}} for each in json.loads(issuers_json(chain.auth))]
        node.plane.set_issuers(json.dumps(listed))
    assert chain.call(headers).status == 200
    entries = chain.c.log().entries
    (record,) = [each for each in entries if isinstance(each, RecordEntry)]
    report = verify_chain_offline(entries, record.cid)
    assert report.verified, report


def test_another_users_token_in_the_middle_of_a_chain_is_refused(chain: Chain) -> None:
    chain.forward = {"Txn-Token": chain.txn("bob")}
    got = chain.call({"Txn-Token": chain.txn("alice")})
    assert (got.status, chain.answers[0].code) == (403, "user_token_mismatch")
    assert not chain.tool.seen
    chain.b.wait_for_call(direction="out", code="user_token_mismatch")


def test_a_user_cannot_be_added_to_a_chain_on_nobodys_behalf(chain: Chain) -> None:
    chain.forward = {"Txn-Token": chain.txn("bob", REASONER)}
    chain.call({})
    assert chain.answers[0].code == "user_token_mismatch"
    chain.forward = {"Authorization": f"Bearer {chain.auth.credentials(REASONER)}"}
    chain.call({})
    assert chain.answers[1].code == "user_token_mismatch"
    assert not chain.tool.seen


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        ("another workload", "user_token_invalid"),
        ("expired", "user_token_invalid"),
        ("wrong audience", "user_token_invalid"),
        ("rotated away", "user_token_invalid"),
        ("cut", "user_token_invalid"),
        ("scope", "request_invalid"),
        ("keys unknown", "issuer_unavailable"),
        ("twice", "request_invalid"),
        ("two users", "user_token_mismatch"),
    ],
)
def test_a_token_that_does_not_hold_opens_no_chain(chain: Chain, attack: str, code: str) -> None:
    server, body = chain.auth.server, b""
    if attack == "expired":
        server.lifetime_s = -11
    user = chain.auth.log_in("alice", REASONER) if attack == "another workload" else ""
    token = chain.auth.exchange(user, REASONER) if user else ""
    if attack == "wrong audience":
        server.audience = "https://elsewhere.example"
        access = chain.auth.log_in("alice", ORCHESTRATOR)
        headers = {"Authorization": f"Bearer {access}"}
    elif attack == "expired":
        headers = {"Authorization": f"Bearer {chain.auth.log_in('alice', ORCHESTRATOR)}"}
    else:
        headers = {"Txn-Token": token or chain.txn()}
    if attack == "rotated away":
        server.rotate("key-2")
        chain.renew_keys()
    elif attack == "cut":
        headers["Txn-Token"] = headers["Txn-Token"][:-4]
    elif attack == "scope":
        body = b'{"authority":{"scope":"crm.admin"}}'
    elif attack == "keys unknown":
        listed = [each | {"jwks": None} for each in json.loads(issuers_json(chain.auth))]
        chain.a.plane.set_issuers(json.dumps(listed))
    elif attack == "two users":
        headers["Authorization"] = f"Bearer {chain.auth.credentials(ORCHESTRATOR)}"
    elif attack == "twice":
        headers["txn-token"] = headers["Txn-Token"]
    got = call(chain.a, "hopseal.local", "/task", headers=headers, body=body)
    assert got.code == code
    assert chain.call(headers).code == code if not body else True
    assert not chain.reasoner.seen
    assert not token_lines(chain.a)


def obo(token: str, **changes: object) -> OnBehalfOf:
    """What a root says about ``token``, as an attacker reads it without any check."""
    claims = json.loads(unb64u(token.split(".")[1]))
    said = OnBehalfOf(
        iss=claims["iss"],
        sub=claims["sub"],
        typ="txn",
        th=b64u(hashlib.sha256(token.encode()).digest()),
        exp=claims["exp"],
        txn=claims["txn"],
    )
    return replace(said, **changes)


def attack(chain: Chain, by: str, field: str | None, said: OnBehalfOf | None, **claims: object) -> Answer:
    """A root of ``by`` to the tool that says ``said`` of the user, in a message that brings ``field``."""
    svid = chain.authority.issue(spiffe_id(by))
    headers = [] if field is None else [("txn-token", field)]
    message = Message(svid, headers=headers)
    record = replace(message.record, iss=SpiffeId.parse(spiffe_id(by)), obo=said, **claims)
    got = send(chain.c.port, svid, Message(svid, headers=headers, record=record).wire())
    assert got is not None
    return got


SCOPED = Ceiling(exp=int(time.time()) + 600, hops=7, scope=frozenset({"crm.read"}))


def test_the_attackers_tools_work_when_nothing_is_wrong(chain: Chain) -> None:
    token = chain.txn()
    assert attack(chain, "orchestrator", token, obo(token), auth=SCOPED).status == 200
    assert chain.tool.seen[0].header("Txn-Token") == token


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("re-rooted by a middle hop with the forwarded token", "issued to another workload"),
        ("another user's token spliced in", "another token than the root's"),
        ("token left out", "does not bring the root's token"),
        ("user of the root changed", "something else about the user"),
        ("scope beyond the token's", "not within the token's"),
        ("no limit of scope", "not within the token's"),
        ("expired", "not valid now"),
        ("wrong audience", "meant for somebody else"),
        ("key rotated away", "not one of the issuer's"),
        ("issuer unknown", "not configured"),
        ("signature of another token", "signature does not hold"),
    ],
)
def test_a_receiver_refuses_a_root_whose_user_it_cannot_verify(chain: Chain, name: str, detail: str) -> None:
    by, auth, server = "orchestrator", SCOPED, chain.auth.server
    if name in {"expired", "wrong audience"}:
        subject = chain.auth.log_in("alice", ORCHESTRATOR)
        server.lifetime_s = -11 if name == "expired" else 300
    token = chain.auth.exchange(subject, ORCHESTRATOR) if name in {"expired", "wrong audience"} else chain.txn()
    brought, said = token, obo(token)
    match name:
        case "re-rooted by a middle hop with the forwarded token":
            by = "reasoner"
            chain.c.plane.set_components(components({"tool": chain.tool.path}, may_start=("orchestrator", "reasoner")))
        case "another user's token spliced in":
            brought = chain.txn("bob")
        case "token left out":
            brought = None
        case "user of the root changed":
            said = replace(said, sub="bob")
        case "scope beyond the token's":
            auth = replace(SCOPED, scope=frozenset({"crm.read", "crm.admin"}))
        case "no limit of scope":
            auth = replace(SCOPED, scope=None)
        case "wrong audience":
            listed = [each | {"audience": ["elsewhere"]} for each in json.loads(issuers_json(chain.auth))]
            chain.c.plane.set_issuers(json.dumps(listed))
        case "key rotated away":
            server.rotate("key-2")
            chain.renew_keys()
        case "issuer unknown":
            chain.c.plane.set_issuers("[]")
        case "signature of another token":
            brought = token.rpartition(".")[0] + "." + chain.txn("bob").rpartition(".")[2]
            said = obo(brought)
    got = attack(chain, by, brought, said, auth=auth)
    assert (got.status, got.code) == (403, "custody_authority")
    assert not chain.tool.seen
    (entry,) = refused(chain.c)
    assert (entry.code, entry.iss) == ("custody_authority", spiffe_id(by))
    assert detail in entry.detail
    assert not token_lines(chain.c)


def test_a_forwarded_token_does_not_make_a_root_on_nobodys_behalf_one_on_a_users(chain: Chain) -> None:
    token = chain.txn()
    got = attack(chain, "reasoner", token, None)
    assert got.code == "custody_authority"
    assert "may not start chains" in refused(chain.c)[0].detail
    assert not chain.tool.seen


def test_without_keys_the_answer_is_to_try_again(chain: Chain) -> None:
    token = chain.txn()
    listed = [each | {"jwks": None} for each in json.loads(issuers_json(chain.auth))]
    chain.c.plane.set_issuers(json.dumps(listed))
    got = attack(chain, "orchestrator", token, obo(token), auth=SCOPED)
    assert (got.status, got.code) == (503, "custody_unavailable")
    assert not chain.tool.seen


def test_an_unknown_key_is_reported_once_for_each_set_of_keys(chain: Chain) -> None:
    token = chain.txn()
    chain.auth.server.rotate("key-2")
    chain.renew_keys()
    for _ in range(3):
        assert attack(chain, "orchestrator", token, obo(token), auth=SCOPED).code == "custody_authority"
    wait_until(lambda: chain.c.of("issuer_key_unknown"), what="a report")
    chain.renew_keys()
    attack(chain, "orchestrator", token, obo(token), auth=SCOPED)
    wait_until(lambda: len(chain.c.of("issuer_key_unknown")) == 2, what="a second report")
    assert chain.c.of("issuer_key_unknown")[0]["issuer"] == "https://as.example.org"


def test_malformed_issuers_are_refused_and_change_nothing(chain: Chain) -> None:
    for text in ["{}", "[{}]", '[{"issuer":"x","type":"at","audience":[],"jwks":{"keys":[]}}]', "["]:
        with pytest.raises(DataPlaneError) as caught:
            chain.a.plane.set_issuers(text)
        assert caught.value.args[0] == "issuers_invalid"
    assert chain.call({"Txn-Token": chain.txn()}).status == 200


def test_a_token_that_is_as_deep_as_may_be_leaves_a_log_that_can_be_read(chain: Chain) -> None:
    for _ in range(14):
        chain.auth.server.context = {"n": chain.auth.server.context}
    assert chain.call({"Txn-Token": chain.txn()}).status == 200
    for node in (chain.a, chain.b, chain.c):
        assert token_lines(node)
        assert not node.log().damage


def test_a_token_under_a_twin_of_its_fields_name_reaches_nobody(chain: Chain) -> None:
    """CGI and WSGI make one variable of ``Txn-Token`` and ``Txn_Token``."""
    chain.forward = {"Txn_Token": chain.txn("bob"), "TXN-Token": chain.txn("alice")}
    chain.call({"Txn-Token": chain.forward["TXN-Token"], "txn_token": chain.forward["Txn_Token"]})
    assert [answer.status for answer in chain.answers] == [200]
    for component in (chain.reasoner, chain.tool):
        assert component.seen[0].header("txn-token") == chain.forward["TXN-Token"]
        assert component.seen[0].header("txn_token") is None
    svid = chain.authority.issue(ORCHESTRATOR)
    got = send(chain.c.port, svid, Message(svid, headers=[("txn_token", chain.txn("bob"))]).wire())
    assert got is not None
    assert got.status == 200, got.body
    assert chain.tool.seen[1].header("txn_token") is None


@pytest.mark.parametrize("form", ["Bearer\t{}", "DPoP {}", "Bearer x, Bearer {}", "Token token={}", "{}"])
def test_another_users_token_in_an_odd_form_is_refused_too(chain: Chain, form: str) -> None:
    theirs = chain.auth.exchange(chain.auth.log_in("bob", REASONER), REASONER, txn=False)
    chain.forward = {"Authorization": form.format(theirs)}
    chain.call({"Txn-Token": chain.txn("alice")})
    assert [answer.code for answer in chain.answers] == ["user_token_mismatch"]
    assert not chain.tool.seen
