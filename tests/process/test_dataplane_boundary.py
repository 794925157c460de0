"""Chains between two trust domains: full, sealed, and what the partner's side accepts."""

from __future__ import annotations

import contextlib
import http.server
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from custody_refusals import statements_in
from dataplane_nodes import PERMIT_ALL, TRUST_DOMAIN, Answer, Component, Node, Seen, answer, call, instance, spiffe_id
from hopseal.custody.record import SealedRecord, parse_sealed_record
from hopseal.log.entries import Direction, RecordEntry
from oauth_server import ISSUER, Served, issuers_json
from svid_authority import Authority

PARTNER = "partner.example"
TOOL = f"spiffe://{PARTNER}/agents/crm/tool"
GATEWAY = spiffe_id("reasoner")


@dataclass
class Federation:
    """The orchestrator and the gateway (the reasoner) at home, the tool at the partner's."""

    auth: Served
    a: Node
    gateway: Node
    partner: Node
    tool: Component
    headers: dict[str, str] = field(default_factory=dict)  # of the gateway's own call
    answers: list[Answer] = field(default_factory=list)

    def call(self, **options: object) -> Answer:
        return call(self.a, "reasoner.crm", **options)

    def token(self, user: str, client: str) -> str:
        return self.auth.exchange(self.auth.log_in(user, client), client)

    def at_partner(self) -> list[SealedRecord]:
        return accepted(self.partner, Direction.RECEIVED)


def accepted(node: Node, direction: Direction) -> list[SealedRecord]:
    entries = [each for each in node.log().entries if isinstance(each, RecordEntry) and each.direction is direction]
    return [parse_sealed_record(each.sealed) for each in entries if each.accepted]


def documents(listens: dict[str, Path], *, of_partner: bool) -> str:
    """The partner knows only its own tool; at home the partner's tool is known by configuration."""
    names = ("tool",) if of_partner else ("orchestrator", "reasoner", "tool")
    return json.dumps(
        [
            {
                "component": f"crm/{name}",
                "agent": "crm",
                "name": name,
                "spiffe_id": TOOL if name == "tool" else spiffe_id(name),
                "listen": str(listens[name]) if name in listens else None,
                "listen_host": None,
                "may_start": name == "orchestrator",
                "partner": name == "tool" and not of_partner,
            }
            for name in names
        ]
    )


@contextlib.contextmanager
def federation(folder: Path, *, egress: str = "sealed", **of_us: object) -> Iterator[Federation]:
    """``egress`` is how our side crosses, ``of_us`` what the partner's configuration says about us."""
    home, away = Authority(TRUST_DOMAIN), Authority(PARTNER)
    bundles = [(TRUST_DOMAIN, [home.der], 1), (PARTNER, [away.der], 1)]
    ours = {PARTNER: {"sealed": egress == "sealed", "gateways": [], "unverified_users": False}}
    theirs = {TRUST_DOMAIN: {"sealed": False, "gateways": [GATEWAY], "unverified_users": False} | of_us}
    with contextlib.ExitStack() as stack:
        auth = stack.enter_context(Served())
        for workload in (spiffe_id("orchestrator"), GATEWAY):
            auth.register(workload)
        reasoner = stack.enter_context(Component(folder / "reasoner.sock"))
        tool = stack.enter_context(Component(folder / "tool.sock"))
        a = Node(folder / "a", home, settings={"boundaries": ours})
        b = Node(
            folder / "b", home, caller="reasoner", listens={"reasoner": reasoner.path}, settings={"boundaries": ours}
        )
        c = Node(folder / "c", away, caller=None, settings={"trust_domain": PARTNER, "boundaries": theirs})
        svid = away.issue(TOOL, ttl_s=600)
        c.plane.set_identity(instance("tool"), "crm/tool", TOOL, list(svid.chain_der), svid.key_pkcs8, svid.expires_at)
        for node, listens in ((a, {}), (b, b.listens), (c, {"tool": tool.path})):
            node.plane.set_bundles(bundles)
            node.plane.set_components(documents(listens, of_partner=node is c))
            node.plane.set_policies(PERMIT_ALL, "[]")
            node.start()
            stack.callback(node.stop)
        for node in (a, b):
            node.plane.set_issuers(issuers_json(auth))
        a.route(reasoner=b.port)
        b.route(tool=c.port)
        made = Federation(auth, a, b, c, tool)

        def respond(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
            got = call(b, headers=made.headers, handle=seen.header("Custody-Handle"))
            made.answers.append(got)
            answer(handler, got.body, status=got.status)

        reasoner.respond = respond
        yield made


def test_the_partner_sees_a_root_of_the_gateway_and_one_hash(tmp_path: Path) -> None:
    with federation(tmp_path) as fed:
        token = fed.token("alice", spiffe_id("orchestrator"))
        body = b'{"task":{"id":"secret-task"},"authority":{"hops":4,"ops":["POST *"]}}'
        opened = call(fed.a, "hopseal.local", "/task", body=body, headers={"Txn-Token": token})
        got = fed.call(handle=opened.handle)
        assert got.status == 200, got.body
        (seen,) = fed.at_partner()
        record = seen.record
        (internal,) = accepted(fed.gateway, Direction.RECEIVED)
        assert (str(record.iss), record.aud, record.hop, record.obo) == (GATEWAY, TOOL, 0, None)
        assert record.cont.to_json() == {"rec": internal.hash, "cid": internal.record.cid, "why": "boundary"}
        assert record.cid != internal.record.cid
        assert record.task.id != "secret-task"
        assert (record.auth.hops, record.auth.aud, record.auth.ops) == (3, (f"spiffe://{PARTNER}/*",), ("POST *",))
        assert record.auth.exp <= internal.record.auth.exp
        assert (record.based_on, record.apv) == (None, None)
        assert fed.tool.seen[0].header("Txn-Token") is None
        log = (fed.partner.log_dir / "custody.log").read_text()
        assert "orchestrator" not in log
        assert "secret-task" not in log
        assert "alice" not in log


def test_the_gateway_brings_a_token_of_its_own_for_the_partner(tmp_path: Path) -> None:
    with federation(tmp_path) as fed:
        fed.partner.plane.set_issuers(issuers_json(fed.auth))
        fed.headers = {"Txn-Token": fed.token("alice", GATEWAY)}
        assert fed.call(headers={"Txn-Token": fed.token("alice", spiffe_id("orchestrator"))}).status == 200
        (seen,) = fed.at_partner()
        assert (seen.record.obo.iss, seen.record.obo.sub) == (ISSUER, "alice")
        assert seen.record.auth.scope == {"crm.read"}
        assert fed.tool.seen[0].header("Txn-Token") == fed.headers["Txn-Token"]


def test_the_gateway_may_repeat_the_internal_token_and_it_stays_at_home(tmp_path: Path) -> None:
    with federation(tmp_path) as fed:
        token = fed.token("alice", spiffe_id("orchestrator"))
        fed.headers = {"Txn-Token": token}
        assert fed.call(headers={"Txn-Token": token}).status == 200
        assert fed.tool.seen[0].header("Txn-Token") is None


@pytest.mark.parametrize("field", ["X-Forwarded-Access-Token", "Authorization", "Txn_Token"])
def test_the_internal_token_does_not_cross_in_another_field(tmp_path: Path, field: str) -> None:
    with federation(tmp_path) as fed:
        token = fed.token("alice", spiffe_id("orchestrator"))
        fed.headers = {field: f"DPoP {token}"}
        fed.call(headers={"Txn-Token": token})
        assert not any(token in value for seen in fed.tool.seen for _, value in seen.headers)
        assert field == "Txn_Token" or fed.answers[0].code == "user_token_mismatch"


def test_a_token_that_was_issued_to_another_workload_does_not_cross(tmp_path: Path) -> None:
    with federation(tmp_path) as fed:
        fed.headers = {"Txn-Token": fed.token("bob", spiffe_id("orchestrator"))}
        fed.call(headers={"Txn-Token": fed.token("alice", spiffe_id("orchestrator"))})
        assert fed.answers[0].code == "user_token_invalid"
        assert not fed.tool.seen


def test_a_gateway_that_the_partner_does_not_list_is_refused(tmp_path: Path) -> None:
    with federation(tmp_path, gateways=[spiffe_id("another")]) as fed:
        assert fed.call().status == 403
        assert fed.answers[0].code == "custody_authority"
        (entry,) = [each for each in statements_in(fed.partner.log_dir) if isinstance(each, RecordEntry)]
        assert (entry.accepted, entry.code) == (False, "custody_authority")
        assert "seal a boundary" in entry.detail
        assert not fed.tool.seen


def test_what_the_internal_authority_does_not_cover_does_not_cross(tmp_path: Path) -> None:
    with federation(tmp_path) as fed:
        for limits in ({"hops": 0}, {"aud": [GATEWAY]}, {"ops": ["GET *", "POST /in"]}):
            body = json.dumps({"authority": limits}).encode()
            opened = call(fed.a, "hopseal.local", "/task", body=body)
            fed.call(path="/in", handle=opened.handle)
            assert fed.answers[-1].code == "custody_authority"
        assert not fed.tool.seen
        fed.gateway.wait_for_call(direction="out", code="custody_authority")


def test_a_full_boundary_lets_the_chain_go_on(tmp_path: Path) -> None:
    with federation(tmp_path, egress="full") as fed:
        assert fed.call().status == 200
        (seen,) = fed.at_partner()
        assert (seen.record.hop, seen.record.cont) == (1, None)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_user_of_another_trust_domain_is_as_good_as_policy_says(tmp_path: Path, allowed: bool) -> None:
    with federation(tmp_path, egress="full", unverified_users=allowed) as fed:
        got = fed.call(headers={"Txn-Token": fed.token("alice", spiffe_id("orchestrator"))})
        assert (got.status, fed.answers[0].code) == ((200, None) if allowed else (403, "custody_authority"))
        assert len(fed.tool.seen) == int(allowed)


def test_a_policy_may_demand_verified_users(tmp_path: Path) -> None:
    verified = '@id("verified") permit(principal, action, resource) when { context.user_verified };'
    with federation(tmp_path, egress="full", unverified_users=True) as fed:
        fed.partner.plane.set_policies(verified, "[]")
        token = {"Txn-Token": fed.token("alice", spiffe_id("orchestrator"))}
        fed.call(headers=token)
        assert fed.answers[0].code == "custody_forbidden"
        fed.partner.plane.set_issuers(issuers_json(fed.auth))
        fed.call(headers=token)
        assert fed.answers[1].status == 200
        condition = f'context.user == "alice" && context.user_issuer == "{ISSUER}"'
        by_name = f'@id("alice") permit(principal, action, resource) when {{ {condition} }};'
        fed.partner.plane.set_policies(by_name, "[]")
        fed.call(headers=token)
        fed.call(headers={"Txn-Token": fed.token("bob", spiffe_id("orchestrator"))})
        assert [each.status for each in fed.answers[2:]] == [200, 403]
