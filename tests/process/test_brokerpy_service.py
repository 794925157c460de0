"""The broker as a process, with its real data plane, between real components and an attestor's sockets."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import time
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from attestor_double import AttestorDouble
from broker_parts import DOCUMENT
from broker_process import BrokerProcess, ComponentProcess
from oauth_server import ISSUER, Served
from waiting import async_wait_until

FRONT = "spiffe://example.org/agents/crm/front"
STORE = "spiffe://example.org/agents/crm/store"


class Node:
    """A broker, an attestor's double, a component that calls and one that answers."""

    def __init__(self, folder, **changes: str) -> None:
        self.folder = folder
        self.double = AttestorDouble(folder)
        self.broker = BrokerProcess(folder, **changes)
        self.store = ComponentProcess(folder / "store.sock")
        self.front = ComponentProcess()
        self.components = [self.store, self.front]

    def attest(self, component: ComponentProcess, spiffe_id: str, instance: str, *, listener: str = "", **options):
        svid = self.double.authority.issue(spiffe_id, **options)
        self.double.say(component.inode, svid, instance=instance, component=listener)
        return svid

    def attest_both(self) -> None:
        self.attest(self.store, STORE, "store-1", listener="crm/store")
        self.attest(self.front, FRONT, "front-1")

    async def ready(self) -> None:
        await async_wait_until(
            lambda: asyncio.to_thread(lambda: self.broker.callee("crm/store") == "attested"), what="the callee"
        )

    async def call(self, component: ComponentProcess | None = None, host: str = "store.crm", path="/items", **options):
        return await asyncio.to_thread((component or self.front).call, self.broker.out, host, path, **options)

    async def code(self, *args, **options) -> str:
        answer = await self.call(*args, **options)
        return answer["error"] if "error" in answer else (answer["status"], _code(answer["body"]))

    async def status(self) -> dict:
        return await asyncio.to_thread(self.broker.status)


def _code(body: str) -> str:
    return body.partition('"code":"')[2].partition('"')[0]


@asynccontextmanager
async def node(folder, *, attestor: bool = True, **changes: str):
    made = Node(folder, **changes)
    try:
        if attestor:
            await made.double.start()
        await asyncio.to_thread(made.broker.start)
        yield made
    finally:
        await asyncio.to_thread(made.broker.kill)
        for component in made.components:
            component.kill()
        await made.double.stop()


async def test_a_call_of_an_attested_component_reaches_the_component_that_listens(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        answer = await n.call(body="hello")
        assert answer["status"] == 200
        assert f'"pid": {n.store.pid}' in answer["body"]
        assert '"got": "hello"' in answer["body"]
        assert await n.code(path="/other") == (403, "policy_denied")
        assert await n.code(host="ghost.crm") == (404, "unknown_peer")


@pytest.mark.parametrize(
    ("message", "code"),
    [("no_document: nobody", "identity_none"), ("image_mismatch: other image", "identity_none")],
)
async def test_a_refused_caller_is_answered_403_without_the_attestors_reason(tmp_path, message, code):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        n.double.refuse(n.front.inode, message)
        answer = await n.call()
        assert (answer["status"], _code(answer["body"])) == (403, code)
        assert "image" not in answer["body"]
        assert n.broker.events("identity_refused")[0]["code"] == message.partition(":")[0]


async def test_a_caller_that_matches_several_components_is_refused(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        n.double.say(n.front.inode, n.double.authority.issue(FRONT), n.double.authority.issue(STORE))
        assert await n.code() == (403, "identity_ambiguous")


async def test_drift_of_the_caller_ends_its_open_connection_within_a_second(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        assert (await n.call(keep=True))["status"] == 200
        n.double.refuse(n.front.inode, "config_changed: drift")
        await async_wait_until(lambda: n.broker.events("identity_withdrawn"), timeout_s=1.0)
        answer = await n.call(keep=True)
        assert answer.get("status") != 200, answer
        assert await n.code() == (403, "identity_none")


async def test_drift_of_the_callee_stops_calls_to_it(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        assert (await n.call(keep=True))["status"] == 200
        n.double.refuse(n.store.inode, "exe_changed: drift", component="crm/store")
        await async_wait_until(lambda: n.broker.events("identity_withdrawn"), timeout_s=1.0)
        answer = await n.call(keep=True)
        assert answer.get("status") != 200, answer
        assert (await n.status())["callees"][0]["state"] == "refused"
        assert (await n.status())["callees"][0]["code"] == "exe_changed"


async def test_a_component_that_was_refused_calls_again_once_it_is_approved(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        n.double.refuse(n.front.inode, "no_document: nobody")
        assert await n.code() == (403, "identity_none")
        n.attest(n.front, FRONT, "front-1")

        async def calls() -> bool:
            return (await n.call()).get("status") == 200

        await async_wait_until(calls, timeout_s=10)


async def test_calls_go_on_while_svids_rotate(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        for turn in range(8):
            n.attest(n.front, FRONT, "front-1", ttl_s=600 + turn)
            n.attest(n.store, STORE, "store-1", listener="crm/store", ttl_s=600 + turn)
            n.double.rotate_broker(ttl_s=600 + turn)
            for _ in range(5):
                answer = await n.call(keep=True)
                assert answer.get("status") == 200, answer


async def test_admitted_components_outlive_a_restart_of_the_attestor(tmp_path):
    async with node(tmp_path, grace_s="10") as n:
        n.attest_both()
        await n.ready()
        assert (await n.call(keep=True))["status"] == 200
        await n.double.stop()
        await async_wait_until(lambda: n.broker.events("attestor_disconnected"))
        assert (await n.call(keep=True))["status"] == 200
        assert (await n.status())["healthy"] is False
        stranger = ComponentProcess()
        n.components.append(stranger)
        assert await n.code(stranger) == (503, "attestor_unavailable")
        await n.double.start()
        await async_wait_until(
            lambda: len([each for each in n.broker.events("identity_confirmed") if each["again"]]) == 2
        )
        assert (await n.call(keep=True))["status"] == 200
        assert not n.broker.events("identity_withdrawn")


async def test_components_are_withdrawn_when_the_attestor_stays_away(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        assert (await n.call(keep=True))["status"] == 200
        await n.double.stop()
        await async_wait_until(lambda: len(n.broker.events("identity_withdrawn")) == 2, timeout_s=5)
        answer = await n.call(keep=True)
        assert answer.get("status") != 200, answer
        assert await n.code() == (503, "attestor_unavailable")
        await n.double.start()
        await n.ready()

        async def calls() -> bool:
            return (await n.call()).get("status") == 200

        await async_wait_until(calls)


async def test_a_listener_that_is_started_again_is_attested_again(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        n.store.kill()
        n.components.remove(n.store)
        n.double.refuse(n.store.inode, "process_exited: gone", component="crm/store")
        (tmp_path / "store.sock").unlink()
        n.store = ComponentProcess(tmp_path / "store.sock")
        n.components.append(n.store)
        n.attest(n.store, STORE, "store-2", listener="crm/store")

        async def answers() -> bool:
            return f'"pid": {n.store.pid}' in (await n.call()).get("body", "")

        await async_wait_until(answers)


async def test_an_impostor_on_the_components_socket_gets_nothing(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        n.store.kill()
        n.components.remove(n.store)
        (tmp_path / "store.sock").unlink()
        impostor = ComponentProcess(tmp_path / "store.sock")
        n.components.append(impostor)
        n.double.refuse(impostor.inode, "listener_not_component: other", component="crm/store")
        answer = await n.call()
        assert answer.get("status") == 503, answer
        assert str(impostor.pid) not in answer["body"]


async def test_a_callee_that_is_not_attested_yet_is_unavailable_and_not_unreachable(tmp_path):
    async with node(tmp_path) as n:
        n.attest(n.front, FRONT, "front-1")
        await async_wait_until(lambda: n.broker.events("attestor_connected") and n.broker.events("documents_loaded"))
        assert await n.code() == (503, "callee_unavailable")
        n.attest(n.store, STORE, "store-1", listener="crm/store")
        await n.ready()
        assert (await n.call())["status"] == 200


async def test_changed_documents_take_effect_and_a_bad_edit_does_not(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        assert (await n.call())["status"] == 200
        document = tmp_path / "agents" / "crm.yaml"
        good = DOCUMENT.replace("LISTEN", str(tmp_path / "store.sock"))
        document.write_text(good.replace("status: active", "status: nonsense"))
        await async_wait_until(lambda: n.broker.events("documents_refused"))
        assert (await n.call())["status"] == 200
        assert any("documents" in problem for problem in (await n.status())["problems"])
        document.write_text(good.replace("POST /items", "GET /nothing"))

        async def denied() -> bool:
            return await n.code() == (403, "policy_denied")

        await async_wait_until(denied)
        assert (await n.status())["problems"] == []


async def test_an_operators_policy_takes_effect_without_a_restart(tmp_path):
    folder = tmp_path / "policies"
    folder.mkdir()
    async with node(tmp_path, policies=str(folder)) as n:
        n.attest_both()
        await n.ready()
        assert (await n.call())["status"] == 200
        (folder / "stop.cedar").write_text('forbid(principal, action, resource) when { context.path == "/items" };')

        async def denied() -> bool:
            return await n.code() == (403, "policy_denied")

        await async_wait_until(denied)
        (folder / "stop.cedar").write_text("forbid(")
        await async_wait_until(lambda: n.broker.events("policies_refused"))
        assert await n.code() == (403, "policy_denied")
        assert (await n.status())["healthy"] is False


async def test_administrators_labels_and_observation_take_effect_and_decisions_are_explained(tmp_path):
    folder, admin, threat = tmp_path / "policies", tmp_path / "admin-policies", tmp_path / "threat.yaml"
    folder.mkdir()
    admin.mkdir()
    threat.write_text(f"{STORE}: low\n")
    calm = '@id("calm") @guardrail("threat") permit(principal, action, resource) when {'
    (admin / "a.cedar").write_text(f'{calm} context has callee_threat && context.callee_threat == "low" }};')
    (folder / "new.cedar").write_text('@id("no one") forbid(principal, action, resource);')
    settings = f"{{folder: {folder}, admin_folder: {admin}, observe: [new.cedar], labels: {{threat: {threat}}}}}"
    async with node(tmp_path, policies=settings) as n:
        n.attest_both()
        await n.ready()
        assert (await n.call())["status"] == 200
        found = (await n.status())["policies"]
        assert (found["files"], found["observe"]) == (["new.cedar", "admin/a.cedar"], ["new.cedar"])
        await async_wait_until(lambda: n.broker.events("call"))
        told = n.broker.events("call")[0]
        assert told["would_deny"] == ['new.cedar: forbidden by "no one" of new.cedar']
        threat.write_text(f"{STORE}: high\n")

        async def denied() -> bool:
            return await n.code() == (403, "policy_denied")

        await async_wait_until(denied)
        await async_wait_until(lambda: [each for each in n.broker.events("call") if each["code"] == "policy_denied"])
        decision = next(each for each in n.broker.events("call") if each["code"] == "policy_denied")["decision"]
        status, body = await asyncio.to_thread(n.broker.get, f"/v1/decisions/{decision}")
        assert status == 200
        past = json.loads(body)
        assert (past["allowed"], past["now"]["reason"], past["now"]["rules"][0]["rule"]) == (
            False,
            "guard_rail",
            "calm",
        )
        assert (await asyncio.to_thread(n.broker.get, "/v1/decisions/none.1"))[0] == 404
        asked = quote(json.dumps({"caller": "crm/front", "callee": "crm/store", "operation": "POST /items"}))
        status, body = await asyncio.to_thread(n.broker.get, f"/v1/policies/explain?asked={asked}")
        assert (status, json.loads(body)["allowed"]) == (200, False)
        for bad in ("", "{}", quote(json.dumps({"caller": "x", "callee": "y", "operation": "z"}))):
            assert (await asyncio.to_thread(n.broker.get, f"/v1/policies/explain?asked={bad}"))[0] == 400
        metrics = (await asyncio.to_thread(n.broker.get, "/metrics"))[1].decode()
        assert 'hopseal_broker_policy_would_deny_total{set="new.cedar"}' in metrics
        assert 'hopseal_broker_policy_decisions_total{outcome="deny"}' in metrics
        threat.write_text("- nothing\n")
        await async_wait_until(lambda: n.broker.events("policies_refused"))
        assert (await n.status())["healthy"] is False
        assert "hopseal_broker_policy_problems 1.0" in (await asyncio.to_thread(n.broker.get, "/metrics"))[1].decode()


@pytest.mark.parametrize(
    "change",
    [("status: active", "status: suspended"), ("POST /items", "GET /nothing"), ("mayStart: true", "mayStart: false")],
    ids=["suspended", "call removed", "may not start"],
)
async def test_a_document_that_forbids_an_open_stream_ends_it_at_once(tmp_path, change):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        streaming = asyncio.create_task(n.call(body="stream"))
        await async_wait_until(lambda: asyncio.to_thread(lambda: b"open_calls 2.0" in n.broker.get("/metrics")[1]))
        document = tmp_path / "agents" / "crm.yaml"
        before = document.read_text()
        document.write_text(before + "# another edit\n")
        await async_wait_until(lambda: len(n.broker.events("documents_loaded")) == 2)
        assert not streaming.done()
        began = time.monotonic()
        document.write_text(before.replace(*change))
        ended = await asyncio.wait_for(streaming, 10)
        # Half of it is for noticing the edit, and this machine may be busy.
        assert time.monotonic() - began < 2.0
        assert "IncompleteRead" in ended["error"]
        await async_wait_until(lambda: [each for each in n.broker.events("call") if each["code"] == "policy_revoked"])


async def test_routes_are_reloaded(tmp_path):
    routes = tmp_path / "routes.yaml"
    routes.write_text("- {component: crm/front, endpoints: ['127.0.0.1:1']}\n")
    async with node(tmp_path, routes=str(routes)) as n:
        await async_wait_until(lambda: n.broker.events("routes_set"))
        routes.write_text("- {component: crm/front, endpoints: ['127.0.0.1:1', '[::1]:2']}\n")
        await async_wait_until(lambda: len(n.broker.events("routes_set")) == 2)
        routes.write_text("- {component: crm/front}\n")
        await async_wait_until(lambda: n.broker.events("routes_refused"))
        found = (await n.status())["routes"]
        assert found["routes"] == [{"component": "crm/front", "endpoints": ["127.0.0.1:1", "[::1]:2"]}]
        assert len(found["problems"]) == 1


async def test_metrics_and_health_are_served_on_both_sockets(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        await n.call()
        port = n.broker.events("broker_started")[0]["metrics_port"]

        def fetch(path: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path)
            answer = connection.getresponse()
            try:
                return answer.status, answer.read().decode()
            finally:
                connection.close()

        status, text = await asyncio.to_thread(fetch, "/metrics")
        assert status == 200
        assert 'hopseal_broker_calls_total{code="ok",direction="out"} 1.0' in text
        assert 'hopseal_broker_identities{kind="listener"} 1.0' in text
        assert 'hopseal_broker_callees{state="attested"} 1.0' in text
        assert "hopseal_broker_attestor_connected 1.0" in text
        assert (await asyncio.to_thread(fetch, "/healthz"))[0] == 200
        assert (await asyncio.to_thread(fetch, "/readyz"))[0] == 200
        assert (await asyncio.to_thread(fetch, "/v1/status"))[0] == 404
        assert (await asyncio.to_thread(n.broker.get, "/metrics"))[0] == 200
        await n.double.stop()
        await async_wait_until(lambda: n.broker.events("attestor_disconnected"))
        assert (await asyncio.to_thread(fetch, "/healthz"))[0] == 503
        assert (await asyncio.to_thread(fetch, "/readyz"))[0] == 503


async def test_without_an_attestor_the_broker_serves_refusals_and_says_so(tmp_path):
    async with node(tmp_path, attestor=False) as n:
        assert await n.code() == (503, "attestor_unavailable")
        await async_wait_until(lambda: n.broker.events("documents_loaded"))
        status = await n.status()
        assert status["healthy"] is False
        assert status["attestor"]["connected"] is False
        assert len(status["problems"]) == 2


async def test_the_admin_socket_is_for_operators_only(tmp_path):
    async with node(tmp_path) as n:
        assert (tmp_path / "admin" / "admin.sock").stat().st_mode & 0o777 == 0o660
        assert (tmp_path / "call" / "out.sock").stat().st_mode & 0o777 == 0o777
        assert n.broker.events("broker_started")


async def test_a_second_broker_on_the_same_sockets_is_refused_and_harms_nothing(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        second = BrokerProcess(tmp_path)
        second.log_path = tmp_path / "second.log"
        await asyncio.to_thread(lambda: second.start(wait=False))
        assert await asyncio.to_thread(second.wait) != 0
        assert "socket_in_use" in second.log_path.read_text()
        assert (await n.call())["status"] == 200


async def test_a_killed_brokers_sockets_are_replaced(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        await asyncio.to_thread(n.broker.kill)
        assert (tmp_path / "call" / "out.sock").exists()
        await asyncio.to_thread(n.broker.start)
        await n.ready()
        assert (await n.call())["status"] == 200


@pytest.mark.parametrize("path", ["admin/admin.sock", "call/out.sock"])
async def test_a_file_at_a_sockets_path_is_refused_and_left_alone(tmp_path, path):
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).write_text("precious")
    broker = BrokerProcess(tmp_path)
    await asyncio.to_thread(lambda: broker.start(wait=False))
    assert await asyncio.to_thread(broker.wait) != 0
    assert "socket_path_occupied" in broker.log_path.read_text()
    assert (tmp_path / path).read_text() == "precious"


async def test_a_replaced_admin_socket_is_a_problem(tmp_path):
    async with node(tmp_path, attestor=False) as n:
        port = n.broker.events("broker_started")[0]["metrics_port"]
        (tmp_path / "admin" / "admin.sock").unlink()

        def problems() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/healthz")
            try:
                return connection.getresponse().read().decode()
            finally:
                connection.close()

        assert "was replaced" in await asyncio.to_thread(problems)


async def test_the_first_signal_drains_and_leaves_nothing_behind(tmp_path):
    async with node(tmp_path) as n:
        assert await asyncio.to_thread(n.broker.stop) == 0
        assert n.broker.events("broker_stopped")
        assert not (tmp_path / "admin" / "admin.sock").exists()
        assert not (tmp_path / "call" / "out.sock").exists()


async def test_the_second_signal_ends_at_once(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        with socket.socket(socket.AF_UNIX) as held:
            # A request without its body keeps the drain waiting.
            held.connect(str(n.broker.out))
            held.sendall(b"POST /items HTTP/1.1\r\nHost: store.crm\r\nContent-Length: 9\r\n\r\n")
            n.broker.signal(signal.SIGTERM)
            await async_wait_until(lambda: n.broker.events("broker_draining"))
            n.broker.signal(signal.SIGTERM)
            assert await asyncio.to_thread(n.broker.wait, 5) in (-signal.SIGTERM, 0)


async def test_the_process_leaves_no_core_dump(tmp_path):
    async with node(tmp_path, attestor=False) as n:
        limits = Path(f"/proc/{n.broker.pid}/limits").read_text()
        line = next(each for each in limits.splitlines() if "core file" in each)
        assert line.split()[4:6] == ["0", "0"]


async def test_no_svid_key_is_written_to_any_file_and_the_log_key_is_for_its_owner_only(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        await n.call()
        keys = [each.key_pkcs8[-32:] for standing in n.double.standings.values() for each in standing.svids]
        for path in (tmp_path / "state").rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert (b"PRIVATE KEY" in data) == (path.name == "log.key")
                assert not any(key in data for key in keys)
        assert (tmp_path / "state" / "log.key").stat().st_mode & 0o777 == 0o600


async def test_descriptors_do_not_grow_with_callers(tmp_path):
    async with node(tmp_path) as n:
        n.attest_both()
        await n.ready()
        await n.call()
        folder = f"/proc/{n.broker.pid}/fd"
        before = len(os.listdir(folder))
        for _ in range(30):
            await n.call()
        await async_wait_until(lambda: len(os.listdir(folder)) <= before + 4)


def issuers_of(served: Served) -> str:
    return (
        f"[{{issuer: {ISSUER}, type: txn, audience: [example.org], jwks_url: '{served.url}/jwks'}}, "
        f"{{issuer: {ISSUER}, type: at, audience: [x], jwks_file: /nowhere/jwks.json}}]"
    )


async def test_a_users_token_passes_with_the_keys_that_the_broker_fetched(tmp_path):
    with Served() as served:
        served.register(FRONT)
        async with node(tmp_path, issuers=issuers_of(served)) as n:
            n.attest_both()
            await n.ready()

            async def call() -> tuple[int, dict]:
                token = await asyncio.to_thread(lambda: served.exchange(served.log_in("alice", FRONT), FRONT))
                answer = await n.call(headers={"Txn-Token": token})
                body = json.loads(answer["body"])
                assert body.get("token") in {None, token}
                return answer["status"], body

            status, body = await call()
            assert (status, "token" in body) == (200, True)
            served.server.rotate("key-2")
            status, body = await call()
            assert (status, body["code"]) == (403, "user_token_invalid")

            async def passes() -> bool:
                return (await call())[0] == 200

            await async_wait_until(passes, timeout_s=30, what="the new key")
            shown = await n.status()
            assert [each["keys"] for each in shown["issuers"]] == [1, 0]
            assert any("/nowhere/jwks.json" in each and "refused" in each for each in shown["problems"])
