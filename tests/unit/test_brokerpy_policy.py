"""What documents permit, asked of Cedar itself over the compiled text."""

from __future__ import annotations

import asyncio
import itertools
import json

import cedarpy
import pytest

from broker.policy.cedar import quote, quote_pattern
from broker.policy.config import PolicyConfig
from broker.policy.engine import PolicyEngine
from broker.policy.facts import encode_facts
from broker.policy.follow import SETTLE_S, PolicyFollower
from broker.policy.sets import Layer, PolicySet, document_sets, encode_sets
from broker_parts import calls, compile_policies, component, documents
from fake_dataplane import FakeDataPlane
from hopseal.documents.model import AgentStatus, DocumentSet
from hopseal.errors import InvalidError

ID = "spiffe://example.org/agents/crm/{}"


def http(operation: str, *, protocol: str = "http", mcp_session: bool = False) -> dict:
    method, _, path = operation.partition(" ")
    return {
        "protocol": protocol,
        "http": operation,
        "operation": operation,
        "method": method,
        "path": path,
        "mcp_session": mcp_session,
    }


def a2a(operation: str) -> dict:
    return mcp(operation, "/a2a") | {"protocol": "a2a"}


def mcp(operation: str, path: str = "/mcp") -> dict:
    return http(f"POST {path}") | {"protocol": "mcp", "operation": operation}


def allowed(given: DocumentSet, caller: str, callee: str, request: dict, *, hop: int = 1, extra: str = "") -> bool:
    caller_id, callee_id = (each if "://" in each else ID.format(each) for each in (caller, callee))
    known = {str(each.spiffe_id) for each in given.components}
    sets = [*document_sets(given), PolicySet("extra.cedar", Layer.OPERATOR, (extra,))]
    question = {
        "caller": caller_id,
        "resource": {"component": callee_id},
        "caller_documented": caller_id in known,
        "side": "caller",
        "hop": hop,
        "chain": [caller_id],
        **request,
    }
    found = PolicyEngine(encode_sets(sets, ()), encode_facts(given)).explain(question)
    assert found["reason"] != "failed"
    return bool(found["allowed"])


def check_policies(text: str) -> None:
    PolicyEngine(encode_sets([PolicySet("given", Layer.OPERATOR, (text,))], ()), "{}")


def single(*operations: str, **fields) -> DocumentSet:
    return documents(component("front", calls=(calls("store", *operations),)), component("store", **fields))


def test_nothing_is_permitted_that_no_document_says():
    given = single("POST /items")
    assert not allowed(given, "store", "front", http("POST /items"))
    assert not allowed(given, "front", "front", http("POST /items"))
    assert not allowed(given, "front", "ghost", http("POST /items"))
    assert not allowed(given, "ghost", "store", http("POST /items"))
    assert not allowed(documents(component("front")), "front", "front", http("GET /"))


def test_calls_without_operations_permit_everything_between_the_two():
    given = single()
    for request in (http("DELETE /x"), mcp("tools/call any"), http("POST /x", protocol="unreadable")):
        assert allowed(given, "front", "store", request)
        assert not allowed(given, "store", "front", request)


@pytest.mark.parametrize(
    ("pattern", "permitted", "denied"),
    [
        ("POST /items", ["POST /items"], ["POST /items/", "POST /items2", "GET /items", "post /items", "POST /item"]),
        ("GET /v1/*", ["GET /v1/", "GET /v1/a/b"], ["GET /v1", "GET /v2/", "POST /v1/a", "XGET /v1/a"]),
        ("GET /*", ["GET /", "GET /a"], ["HEAD /", "GET *"]),
        ("GET /a.b", ["GET /a.b"], ["GET /aXb"]),
        ("GET /a?b", ["GET /a?b"], ["GET /ab", "GET /aXb"]),
    ],
)
def test_http_patterns_match_method_and_path(pattern, permitted, denied):
    given = single(pattern)
    for operation in permitted:
        assert allowed(given, "front", "store", http(operation)), operation
    for operation in denied:
        assert not allowed(given, "front", "store", http(operation)), operation


@pytest.mark.parametrize(
    ("pattern", "permitted", "denied"),
    [
        ("tools/call crm.*", ["tools/call crm.", "tools/call crm.x"], ["tools/call crmx", "tools/call", "tools/list"]),
        ("tools/call crm.lookup", ["tools/call crm.lookup"], ["tools/call crm.lookup2", "tools/call crm.looku"]),
        ("tools/list", ["tools/list"], ["tools/list x", "tools/call x", "prompts/list"]),
        ("tools/*", ["tools/list", "tools/call x"], ["resources/read x", "tools"]),
        ("tools/call *", ["tools/call x", "tools/call "], ["tools/call", "tools/callx"]),
    ],
)
def test_mcp_patterns_match_readable_calls_only(pattern, permitted, denied):
    given = single(pattern)
    for operation in permitted:
        assert allowed(given, "front", "store", mcp(operation)), operation
        for protocol in ("http", "unreadable"):
            assert not allowed(given, "front", "store", mcp(operation) | {"protocol": protocol}), operation
    for operation in denied:
        assert not allowed(given, "front", "store", mcp(operation)), operation


def test_an_mcp_pattern_implies_what_a_session_needs_and_no_more():
    given = single("tools/call crm.lookup")
    for operation in ("initialize", "notifications/initialized", "notifications/cancelled x"):
        assert allowed(given, "front", "store", mcp(operation))
        assert not allowed(given, "front", "store", mcp(operation) | {"protocol": "unreadable"})
    for operation in ("initialize x", "notifications", "ping", "logging/setLevel", "tools/list"):
        assert not allowed(given, "front", "store", mcp(operation))
    assert allowed(given, "front", "store", http("GET /mcp", mcp_session=True))
    assert allowed(given, "front", "store", http("DELETE /mcp", mcp_session=True))
    assert not allowed(given, "front", "store", http("GET /mcp"))


@pytest.mark.parametrize(
    ("pattern", "permitted", "denied"),
    [
        ("message/send", ["message/send"], ["message/send task-1", "message/stream"]),
        ("message/send *", ["message/send task-1"], ["message/send", "message/stream task-1"]),
        ("message/*", ["message/send", "message/stream task-1"], ["tasks/get task-1"]),
        ("tasks/get task-1", ["tasks/get task-1"], ["tasks/get task-12", "tasks/cancel task-1"]),
        ("tasks/pushNotificationConfig/*", ["tasks/pushNotificationConfig/set t"], ["tasks/get t"]),
    ],
)
def test_a2a_patterns_match_method_and_task(pattern, permitted, denied):
    given = single(pattern)
    for operation in permitted:
        assert allowed(given, "front", "store", a2a(operation)), operation
        assert not allowed(given, "front", "store", a2a(operation) | {"protocol": "unreadable"}), operation
    for operation in denied:
        assert not allowed(given, "front", "store", a2a(operation)), operation


CARD = "GET /.well-known/agent-card.json"


@pytest.mark.parametrize(
    ("pattern", "of_mcp", "of_a2a"),
    [
        ("message/send", False, True),
        ("message/*", False, True),
        ("tasks/resubscribe *", False, True),
        ("tasks/get *", True, True),
        ("tasks/*", True, True),
        ("tools/call crm.*", True, False),
        ("tasks/result t", True, False),
        ("messages/x", True, False),
    ],
)
def test_a_pattern_implies_what_a_client_of_its_protocol_asks_first(pattern, of_mcp, of_a2a):
    given = single(pattern)
    assert allowed(given, "front", "store", mcp("initialize")) == of_mcp
    assert allowed(given, "front", "store", http("GET /mcp", mcp_session=True)) == of_mcp
    assert allowed(given, "front", "store", http(CARD)) == of_a2a


def test_an_http_pattern_implies_no_session():
    given = single("POST /mcp")
    assert not allowed(given, "front", "store", http("GET /mcp", mcp_session=True))
    assert allowed(given, "front", "store", mcp("tools/call anything", "/mcp"))
    assert allowed(given, "front", "store", http("POST /mcp", protocol="unreadable"))


def test_an_unreadable_body_matches_no_mcp_pattern_even_if_its_text_would():
    given = single("tools/call *", "initialize")
    request = http("POST /mcp", protocol="unreadable") | {"operation": "tools/call x"}
    assert not allowed(given, "front", "store", request)


def test_patterns_agree_with_a_plain_reading_over_many_requests():
    patterns = ["GET /a", "GET /a*", "POST /b/*", "tools/call x*", "tools/list", "resources/*"]
    requests = [http(f"{m} {p}") for m in ("GET", "POST") for p in ("/a", "/ab", "/b", "/b/", "/b/c", "/c")]
    requests += [mcp(o) for o in ("tools/call x", "tools/call xy", "tools/call y", "tools/list", "resources/read u")]

    def reads(pattern: str, request: dict) -> bool:
        text = request["http"] if pattern[0].isupper() else request["operation"]
        if pattern[0].islower() and request["protocol"] != "mcp":
            return False
        return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern

    for first, second in itertools.combinations(patterns, 2):
        given = single(first, second)
        for request in requests:
            expected = reads(first, request) or reads(second, request)
            assert allowed(given, "front", "store", request) == expected, (first, second, request)


def test_only_a_star_at_the_end_is_a_wildcard():
    given = single("tools/call a*b", "GET /a*b*")
    assert allowed(given, "front", "store", mcp("tools/call a*b"))
    assert not allowed(given, "front", "store", mcp("tools/call aXb"))
    assert allowed(given, "front", "store", http("GET /a*bc"))
    assert not allowed(given, "front", "store", http("GET /aXbc"))


HOSTILE = [
    'GET /"; permit(principal, action, resource); //',
    'GET /") || true || ("',
    "GET /\\",
    'GET /\\" || true //*',
    "GET /\n};permit(principal,action,resource);",
    "GET /\u2028\u0000\x1b[31m",
    "tools/call \\u{2a}",
    'tools/call "*',
    "tools/call \\*",
    "GET /\U0001f600",
]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_a_hostile_pattern_permits_exactly_itself(pattern):
    given = single(pattern)
    check_policies(compile_policies(given))
    literal = pattern.removesuffix("*")
    request = http(literal) if pattern.startswith("GET") else mcp(literal)
    assert allowed(given, "front", "store", request)
    assert not allowed(given, "front", "store", http("GET /other"))
    assert not allowed(given, "front", "store", mcp("tools/call other"))
    assert not allowed(given, "store", "front", request)


def test_every_character_is_quoted_to_itself():
    for code in [*range(0x250), 0x2028, 0xFFFD, 0x10FFFF]:
        text = f"a{chr(code)}b"
        requests = [
            {
                "principal": 'Hopseal::Component::"a"',
                "action": 'Hopseal::Action::"call"',
                "resource": 'Hopseal::Component::"b"',
                "context": {"path": value},
            }
            for value in (text, "ab", "aXXb")
        ]
        for test in (f"context.path == {quote(text)}", f"context.path like {quote_pattern(text)}"):
            results = cedarpy.is_authorized_batch(
                requests, f"permit(principal, action, resource) when {{ {test} }};", "[]"
            )
            assert [result.allowed for result in results] == [True, False, False], (code, test)


def test_accept_from_forbids_whoever_is_not_listed():
    given = documents(
        component("front", calls=(calls("store"),)),
        component("back", calls=(calls("store"),)),
        component("store", accept_from=(ID.format("front"),)),
    )
    assert allowed(given, "front", "store", http("GET /"))
    assert not allowed(given, "back", "store", http("GET /"))


def test_accept_from_permits_an_undocumented_caller_that_is_listed():
    given = single(accept_from=("spiffe://partner.org/agents/*", "spiffe://example.org/agents/other/one"))
    assert allowed(given, "spiffe://partner.org/agents/a/b", "store", http("GET /"))
    assert allowed(given, "spiffe://example.org/agents/other/one", "store", http("GET /"))
    assert not allowed(given, "spiffe://example.org/agents/other/one2", "store", http("GET /"))
    assert not allowed(given, "spiffe://partner.org/agentsx/a", "store", http("GET /"))
    assert not allowed(given, "spiffe://evil.org/agents/a", "store", http("GET /"))


def test_accept_from_permits_no_documented_caller_by_itself():
    given = documents(component("front"), component("store", accept_from=(ID.format("front"),)))
    assert not allowed(given, "front", "store", http("GET /"))


def test_an_empty_accept_from_accepts_nobody():
    given = single(accept_from=())
    assert not allowed(given, "front", "store", http("GET /"))


def test_an_undocumented_caller_needs_accept_from():
    assert not allowed(single(), "spiffe://partner.org/a", "store", http("GET /"))


def test_only_a_component_that_may_start_begins_a_chain():
    given = documents(component("front", calls=(calls("store"),), may_start=False), component("store"))
    assert not allowed(given, "front", "store", http("GET /"), hop=0)
    assert allowed(given, "front", "store", http("GET /"), hop=1)
    assert allowed(single(), "front", "store", http("GET /"), hop=0)


@pytest.mark.parametrize("status", [AgentStatus.SUSPENDED, AgentStatus.RETIRED])
def test_components_of_an_inactive_agent_neither_call_nor_are_called(status):
    given = documents(component("front", calls=(calls("store"),)), component("store"), status=status)
    everything = "permit(principal, action, resource);"
    assert not allowed(given, "front", "store", http("GET /"), extra=everything)
    assert allowed(single(), "front", "store", http("GET /"), extra=everything)


def test_a_call_to_a_component_that_no_document_describes_permits_nothing():
    given = documents(component("front", calls=(calls("ghost"),)))
    assert compile_policies(given) == ""
    assert not allowed(given, "front", "ghost", http("GET /"))


def test_calls_across_agents_are_permitted_as_written():
    given = documents(
        component("front", calls=(calls("billing/ledger", "GET /sum"),)), component("ledger", agent="billing")
    )
    assert allowed(given, "front", "spiffe://example.org/agents/billing/ledger", http("GET /sum"))


def test_compiled_text_fits_the_schema():
    given = documents(
        component("front", calls=(calls("store", "GET /a", "tools/call x.*"),), may_start=False),
        component("store", accept_from=("spiffe://partner.org/*",)),
    )
    check_policies(compile_policies(given))


def test_every_policy_names_its_rule():
    given = single("GET /a")
    parsed = json.loads(cedarpy.policies_to_json_str(compile_policies(given)))
    assert {each["annotations"]["id"] for each in parsed["staticPolicies"].values()} == {"crm/front calls crm/store"}


def test_an_operators_policy_can_name_an_agent():
    given = single()
    forbid = 'forbid(principal in Hopseal::Agent::"crm", action, resource);'
    assert not allowed(given, "front", "store", http("GET /"), extra=forbid)


# The folder of policies.

FORBID = 'forbid(principal, action, resource) when { context.path == "/secret" };'


async def follower(tmp_path, plane=None) -> tuple[PolicyFollower, FakeDataPlane]:
    plane = plane or FakeDataPlane()
    return PolicyFollower(PolicyConfig(folder=tmp_path), plane), plane


async def test_documents_and_files_make_one_set(tmp_path):
    (tmp_path / "a.cedar").write_text(FORBID)
    (tmp_path / "b.txt").write_text("permit(")
    made, plane = await follower(tmp_path)
    await made.set_documents(single())
    assert plane.policies == ""
    await made.reload()
    assert "crm/front calls crm/store" in plane.policies
    assert FORBID in plane.policies
    assert made.state.files == ("a.cedar",)
    assert made.state.problems == ()
    assert len(made.state.sha256) == 64


async def test_a_bad_file_at_the_start_leaves_every_call_denied_and_says_so(tmp_path):
    (tmp_path / "a.cedar").write_text("permit(")
    made, plane = await follower(tmp_path)
    await made.set_documents(single())
    await made.reload()
    assert plane.policies == ""
    assert made.state.sha256 == ""
    assert "a.cedar" in made.state.problems[0]
    (tmp_path / "a.cedar").write_text(FORBID)
    await made.reload()
    assert FORBID in plane.policies
    assert made.state.problems == ()


@pytest.mark.parametrize(
    "bad",
    [
        "permit(",
        'permit(principal == User::"x", action, resource);',
        "permit(principal,action,resource) when { context.nope };",
    ],
)
async def test_a_bad_edit_keeps_the_old_set_and_says_so(tmp_path, bad):
    (tmp_path / "a.cedar").write_text(FORBID)
    made, plane = await follower(tmp_path)
    await made.set_documents(single())
    await made.reload()
    before = plane.policies
    (tmp_path / "a.cedar").write_text(bad)
    await made.reload()
    assert plane.policies == before
    assert made.state.problems
    assert made.state.sha256


async def test_documents_go_on_being_renewed_beside_the_last_good_files(tmp_path):
    (tmp_path / "a.cedar").write_text(FORBID)
    made, plane = await follower(tmp_path)
    await made.set_documents(single())
    await made.reload()
    (tmp_path / "a.cedar").write_bytes(b"\xff")
    await made.reload()
    await made.set_documents(documents(component("front"), component("store")))
    assert "calls" not in plane.policies
    assert FORBID in plane.policies
    assert made.state.problems == ("a.cedar: not UTF-8 (save it as UTF-8)",)


async def test_a_folder_that_disappears_keeps_the_set_and_says_so(tmp_path):
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "a.cedar").write_text(FORBID)
    made, plane = await follower(folder)
    await made.set_documents(single())
    await made.reload()
    (folder / "a.cedar").unlink()
    folder.rmdir()
    await made.reload()
    assert FORBID in plane.policies
    assert made.state.problems
    folder.mkdir()
    await made.reload()
    assert FORBID not in plane.policies
    assert made.state.problems == ()


async def test_a_file_that_was_emptied_takes_no_rule_away(tmp_path):
    (tmp_path / "a.cedar").write_text(FORBID)
    made, plane = await follower(tmp_path)
    await made.set_documents(single())
    await made.reload()
    for emptied in ("", " \n"):
        (tmp_path / "a.cedar").write_text(emptied)
        await made.reload()
        assert FORBID in plane.policies
        assert "a.cedar: empty" in made.state.problems[0]


async def test_a_file_that_is_being_written_is_not_taken_for_whole(tmp_path):
    file, other = tmp_path / "a.cedar", "forbid(principal, action, resource) when { context.hop > 8 };"
    file.write_text(other + FORBID)
    made, plane = await follower(tmp_path)
    await made.set_documents(single())
    await made.reload()
    file.write_text(other)
    reading = asyncio.create_task(made.reload())
    await asyncio.sleep(SETTLE_S / 2)
    assert FORBID in plane.policies
    file.write_text(other + FORBID + FORBID)
    await reading
    assert FORBID in plane.policies
    await made.reload()
    assert plane.policies.count(FORBID) == 2


async def test_a_refusal_by_the_data_plane_keeps_the_old_state_and_says_so():
    plane = FakeDataPlane()
    made = PolicyFollower(PolicyConfig(), plane)
    await made.set_documents(single())
    before = made.state
    plane.refuse_policies = True
    await made.set_documents(documents(component("front")))
    assert made.state.sha256 == before.sha256
    assert "unexpected token" in made.state.problems[0]


async def test_a_huge_policy_file_is_refused(tmp_path):
    (tmp_path / "a.cedar").write_bytes(b"/" * 4_194_305)
    made, _ = await follower(tmp_path)
    await made.reload()
    assert "larger than" in made.state.problems[0]


def test_a_policy_that_reads_an_optional_attribute_unasked_is_refused():
    with pytest.raises(InvalidError, match="policy_invalid"):
        check_policies('permit(principal, action, resource) when { principal.team == "a" };')
    check_policies('permit(principal, action, resource) when { principal has team && principal.team == "a" };')
