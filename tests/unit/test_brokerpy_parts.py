"""The broker's smaller parts: routes, SVID messages, log lines, events, metrics, pauses."""

from __future__ import annotations

import asyncio
import json
import random
from types import SimpleNamespace

import pytest
import structlog

from broker.config import LogConfig
from broker.documents import DocumentKeeper, encode_components
from broker.events import DataPlaneEvents
from broker.isolated import run_isolated
from broker.issuers import IssuerKeys
from broker.logs import CallLines, configure_logs
from broker.metrics import render_metrics, translate_family
from broker.references import CallerRef, ListenerRef, encode_reference
from broker.routes import RouteFollower, parse_routes
from broker.svids import parse_bundles, parse_svid, read_spiffe_id, split_certificates
from broker_parts import component, documents
from fake_dataplane import FakeDataPlane
from hopseal.backoff import Backoff
from hopseal.documents.follow import DocumentFollower
from hopseal.documents.model import Call, Custody, ExternalCall, PeerCall, SvidMode
from hopseal.errors import InvalidError, UnavailableError
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.settings import SettingsInvalidError
from hopseal.watch import Watch
from hopseal.wire.gen.hopseal.v1.reference_pb2 import ListenerReference, PidfdReference
from svid_authority import Authority
from waiting import async_wait_until

NO_ISSUERS = IssuerKeys((), random.Random(0))

# Routes.

ROUTE = b"- {component: crm/store, endpoints: ['node-2.example.org:8443', '[2001:db8::1]:8443']}\n"


def test_routes_are_read_in_the_files_order():
    found = dict(parse_routes("routes.yaml", ROUTE))
    assert [str(each) for each in found["crm/store"]] == ["node-2.example.org:8443", "[2001:db8::1]:8443"]


def test_an_empty_routes_file_has_no_routes():
    assert parse_routes("routes.yaml", b"") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- {component: crm, endpoints: ['a:1']}", "'crm' is not <agent>/<component>"),
        ("- {component: crm/a}", "must list at least one host:port"),
        ("- {component: crm/a, endpoints: []}", "must list at least one host:port"),
        ("- {component: crm/a, endpoints: ['a']}", "'a' is not host:port"),
        ("- {component: crm/a, endpoints: ['a:0']}", "'a:0' has no port"),
        ("- {component: crm/a, endpoints: ['a:1'], weight: 1}", "unknown key"),
        ("- {endpoints: ['a:1']}", "component: missing"),
        ("{component: crm/a}", "must be a list of mappings"),
        ("- {component: crm/a, endpoints: ['a:1']}\n- {component: crm/a, endpoints: ['b:1']}", "has two routes"),
        ("- [", "not YAML"),
    ],
)
def test_each_mistake_in_routes_is_named(text, expected):
    with pytest.raises(SettingsInvalidError) as caught:
        parse_routes("routes.yaml", text.encode())
    assert len(caught.value.mistakes) == 1
    assert expected in caught.value.mistakes[0].message


def test_all_mistakes_in_routes_are_named_at_once():
    with pytest.raises(SettingsInvalidError) as caught:
        parse_routes("r", b"- {component: x, endpoints: ['a']}\n- {component: crm/a, endpoints: ['b:0', 'C:1']}\n")
    assert [mistake.line for mistake in caught.value.mistakes] == [1, 1, 2, 2]


async def test_a_bad_edit_keeps_the_routes_and_says_so(tmp_path):
    path = tmp_path / "routes.yaml"
    path.write_bytes(ROUTE)
    follower = RouteFollower(path)
    await follower.load()
    good = follower.current.value
    assert json.loads(good.encode()) == {"crm/store": ["node-2.example.org:8443", "[2001:db8::1]:8443"]}
    for bad in (b"nonsense", b"- {component: x}"):
        path.write_bytes(bad)
        await follower.load()
        assert follower.current.value.endpoints == good.endpoints
        assert follower.current.value.problems
    path.unlink()
    await follower.load()
    assert follower.current.value.endpoints == good.endpoints
    assert "No such file" in follower.current.value.problems[0]
    path.write_bytes(b"")
    await follower.load()
    assert follower.current.value.endpoints == ()
    assert follower.current.value.problems == ()


async def test_unchanged_routes_are_published_once(tmp_path):
    path = tmp_path / "routes.yaml"
    path.write_bytes(ROUTE)
    follower = RouteFollower(path)
    for _ in range(3):
        await follower.load()
    assert follower.current.version == 1


# SVID messages.

AUTHORITY = Authority()
SVID = AUTHORITY.issue("spiffe://example.org/agents/crm/front")


def message(**changes) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "spiffe_id": str(SVID.spiffe_id),
            "x509_svid": SVID.chain_der[0] + AUTHORITY.der,
            "x509_svid_key": SVID.key_pkcs8,
            "bundle": AUTHORITY.der,
            "hint": "internal",
            **changes,
        }
    )


def test_an_svid_message_becomes_one_value():
    found = parse_svid(message())
    assert found.spiffe_id == SVID.spiffe_id
    assert found.chain_der == (SVID.chain_der[0], AUTHORITY.der)
    assert found.expires_at == SVID.expires_at
    assert found.hint == "internal"
    assert SVID.key_pkcs8.hex() not in repr(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"spiffe_id": "spiffe://example.org/agents/crm/other"},
        {"spiffe_id": "spiffe://example.org/agents/crm/front\n"},
        {"spiffe_id": ""},
        {"x509_svid": b""},
        {"x509_svid": SVID.chain_der[0][:-1]},
        {"x509_svid": SVID.chain_der[0] + b"\x00"},
        {"x509_svid": AUTHORITY.der + SVID.chain_der[0]},
        {"x509_svid": AUTHORITY.der * 9},
        {"x509_svid_key": b""},
        {"x509_svid_key": b"\x30\x00"},
        {"x509_svid_key": AUTHORITY.issue("spiffe://example.org/agents/crm/front").key_pkcs8},
    ],
)
def test_parts_that_do_not_belong_together_are_refused(changes):
    with pytest.raises(InvalidError, match="svid_malformed"):
        parse_svid(message(**changes))


def test_a_certificate_with_two_uri_names_has_no_identity():
    names = ("spiffe://example.org/a", "spiffe://example.org/b")
    from cryptography import x509  # noqa: PLC0415

    leaf = AUTHORITY.issue("spiffe://example.org/a", names=names).chain_der[0]
    assert read_spiffe_id(x509.load_der_x509_certificate(leaf)) is None


def test_certificates_are_split_at_every_cut_or_not_at_all():
    both = AUTHORITY.der + SVID.chain_der[0]
    assert split_certificates(both, 2) == (AUTHORITY.der, SVID.chain_der[0])
    for end in range(len(both)):
        if end == len(AUTHORITY.der):
            continue
        with pytest.raises(ValueError, match=r"."):
            split_certificates(both[:end], 2)


def test_more_certificates_than_the_bound_are_refused():
    assert len(split_certificates(AUTHORITY.der * 3, 3)) == 3
    with pytest.raises(ValueError, match="more than 3"):
        split_certificates(AUTHORITY.der * 4, 3)


def test_bundles_of_several_trust_domains_stay_apart():
    other = Authority("partner.org")
    bundles = parse_bundles(TrustDomain.parse("example.org"), AUTHORITY.der, {"spiffe://partner.org": other.der})
    assert [bundle.trust_domain.name for bundle in bundles] == ["example.org", "partner.org"]
    assert bundles.get(TrustDomain.parse("partner.org")).x509_authorities == (other.der,)


@pytest.mark.parametrize("federated", [{"spiffe://Partner.org": AUTHORITY.der}, {"spiffe://partner.org": b""}])
def test_malformed_bundles_are_refused(federated):
    with pytest.raises(InvalidError, match="bundle_malformed"):
        parse_bundles(TrustDomain.parse("example.org"), AUTHORITY.der, federated)
    with pytest.raises(InvalidError, match="bundle_malformed"):
        parse_bundles(TrustDomain.parse("example.org"), b"", {})


# References.


def test_references_are_packed_as_their_own_types():
    boot = bytes(16)
    caller = encode_reference(CallerRef(7), boot).reference
    assert caller.type_url == "type.googleapis.com/hopseal.v1.PidfdReference"
    unpacked = PidfdReference()
    assert caller.Unpack(unpacked)
    assert (unpacked.pidfd_inode, unpacked.boot_id) == (7, boot)
    listener = ListenerReference()
    assert encode_reference(ListenerRef(0, "crm/store", "/run/s"), boot).reference.Unpack(listener)
    assert (listener.pidfd_inode, listener.component, listener.path) == (0, "crm/store", "/run/s")


# Log lines.


@pytest.fixture
def log_lines(capfd):
    def read() -> list[str]:
        return capfd.readouterr().err.splitlines()

    yield read
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["json", "console"])
def test_hostile_text_neither_starts_a_line_nor_moves_the_terminal(log_lines, form):
    configure_logs(LogConfig(form, "info"))
    structlog.get_logger("x").info(
        "call", operation='GET /\n{"event": "forged"}\x1b[2J\r\u2028', nested={"a\n": ["b\x00"]}
    )
    lines = log_lines()
    assert len(lines) == 1
    assert lines[0].isprintable()
    assert "\\n" in lines[0]


def test_the_level_is_kept(log_lines):
    configure_logs(LogConfig("json", "warning"))
    structlog.get_logger("x").info("quiet")
    structlog.get_logger("x").warning("loud")
    assert [json.loads(line)["event"] for line in log_lines()] == ["loud"]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("operation", ["GET /", "GET /\u202e\x7f\n"], ids=["plain", "hostile"])
def test_a_call_is_one_printable_line(log_lines, form, operation):
    config = LogConfig(form, "info")
    configure_logs(config)
    data_plane = FakeDataPlane()
    data_plane.emit("call", operation=operation)
    calls = CallLines(config)
    plain, _ = data_plane.take_calls(calls.end(), 9)
    calls.write(plain, [json.dumps({"event": "call", "operation": operation}, ensure_ascii=False)])
    lines = log_lines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    if form == "json":
        read = json.loads(lines[0])
        assert (read["event"], read["level"]) == ("call", "info")
        assert read["timestamp"].endswith("Z")


def test_calls_are_not_written_above_their_level(log_lines):
    config = LogConfig("json", "warning")
    configure_logs(config)
    calls = CallLines(config)
    calls.write('{"event":"call"' + calls.end() + "\n", ['{"event":"call"}'])
    assert log_lines() == []


# Events of the data plane.


class Seen:
    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getattr__(self, name):
        return lambda *args: self.calls.append((name, *args))


class Lines:
    """Lines about calls, counted."""

    def __init__(self, seen: Seen | None = None) -> None:
        self._seen = seen or Seen()

    def end(self) -> str:
        return "}"

    def write(self, lines, others) -> None:
        self._seen.calls.append(("calls", lines.count("\n"), len(others)))


async def test_events_reach_the_identities_in_order():
    plane, seen = FakeDataPlane(), Seen()
    events = DataPlaneEvents(plane, seen, NO_ISSUERS, Lines())
    task = asyncio.create_task(events.run())
    plane.emit("caller_seen", pidfd_inode=5, pid=11, uid=0)
    plane.emit("listener_seen", component="crm/store", path="/x", pidfd_inode=9, dead=False)
    plane.emit("listener_seen", component="crm/store", path="/x", pidfd_inode=9, dead=True)
    plane.emit("caller_idle", pidfd_inode=5)
    plane.emit("caller_active", pidfd_inode=5)
    plane.emit("something_new", level="x", timestamp="y")
    await async_wait_until(lambda: len(seen.calls) == 5)
    plane.emit("caller_seen", pidfd_inode=6)
    await async_wait_until(lambda: len(seen.calls) == 6)
    task.cancel()
    assert seen.calls == [
        ("see_caller", 5, 11),
        ("see_listener", "crm/store", 9),
        ("see_listener", "crm/store", 0),
        ("note_idle", 5),
        ("note_active", 5),
        ("see_caller", 6, 0),
    ]


async def test_what_the_identities_must_know_goes_before_the_lines_about_calls():
    plane, seen = FakeDataPlane(), Seen()
    events = DataPlaneEvents(plane, seen, NO_ISSUERS, Lines(seen))
    for _ in range(1100):
        plane.emit("call")
    plane.emit("caller_seen", pidfd_inode=5, pid=11)
    task = asyncio.create_task(events.run())
    await async_wait_until(lambda: len(seen.calls) == 3)
    task.cancel()
    assert seen.calls == [("see_caller", 5, 11), ("calls", 1024, 0), ("calls", 76, 0)]


def test_a_log_that_cannot_be_written_is_unhealthy_until_it_recovers():
    events = DataPlaneEvents(FakeDataPlane(), Seen(), NO_ISSUERS, Lines())
    events.handle({"event": "log_failed", "detail": "no space left on device"})
    assert events.log_health.healthy is False
    assert events.log_health.detail == "no space left on device"
    events.handle({"event": "log_recovered"})
    assert events.log_health.healthy is True


# Documents.


class Order:
    def __init__(self) -> None:
        self.names: list[str] = []

    def part(self, name: str, *, asynchronous: bool = False):
        async def later(_documents) -> None:
            self.names.append(name)

        return SimpleNamespace(set_documents=later if asynchronous else lambda _: self.names.append(name))


async def test_components_are_known_before_they_are_permitted_and_permitted_before_they_are_admitted(tmp_path):
    order, plane = Order(), FakeDataPlane()
    follower = DocumentFollower(tmp_path, TrustDomain.parse("example.org"))
    keeper = DocumentKeeper(
        follower,
        plane,
        order.part("policies", asynchronous=True),
        order.part("identities"),
        order.part("callees"),
        {},
    )
    task = asyncio.create_task(keeper.run())
    await follower.load()
    await async_wait_until(lambda: len(order.names) == 3)
    task.cancel()
    assert plane.calls == [("set_components",)]
    assert order.names == ["policies", "identities", "callees"]


def test_the_data_plane_is_told_every_component():
    store = component(
        "store",
        may_start=False,
        listen="/run/s",
        svid=SvidMode.BROKER,
        calls=(Call("crm", "front"), Call("crm", "envoy", custody=Custody.NONE)),
        peers=(PeerCall(SpiffeId.parse("spiffe://example.org/ledger"), "ledger"),),
        externals=(ExternalCall("api.example.com", 443), ExternalCall("db.example.com", 5432, opaque=True)),
        accept_plain=("spiffe://example.org/edge/*",),
    )
    assert json.loads(encode_components(documents(component("front", may_start=True), store), {}))[1] == {
        "component": "crm/store",
        "agent": "crm",
        "name": "store",
        "spiffe_id": "spiffe://example.org/agents/crm/store",
        "listen": "/run/s",
        "listen_host": None,
        "listen_protocol": "h1",
        "may_start": False,
        "brokered": True,
        "outside": {
            "services": [
                {"host": "api.example.com", "port": 443, "opaque": False},
                {"host": "db.example.com", "port": 5432, "opaque": True},
            ],
            "peers": [{"name": "ledger", "spiffe_id": "spiffe://example.org/ledger"}],
            "plain": ["crm/envoy"],
            "accepts": ["spiffe://example.org/edge/*"],
        },
    }


def test_the_data_plane_is_told_of_partners_that_no_document_names():
    given = documents(component("front"))
    partners = {
        "theirs/tool": SpiffeId.parse("spiffe://partner.example/agents/theirs/tool"),
        "crm/front": SpiffeId.parse("spiffe://partner.example/agents/crm/front"),
    }
    told = json.loads(encode_components(given, partners))
    assert [(each["component"], each["spiffe_id"], each.get("partner", False)) for each in told] == [
        ("theirs/tool", "spiffe://partner.example/agents/theirs/tool", True),
        ("crm/front", "spiffe://example.org/agents/crm/front", False),
    ]


# Metrics.


def test_the_data_planes_figures_become_prometheus_text():
    class Collector:
        def collect(self):
            yield translate_family(
                {
                    "name": "hopseal_broker_calls",
                    "type": "counter",
                    "help": "Calls.",
                    "samples": [{"labels": {"direction": "out", "code": 'a"\n'}, "value": 2.0}],
                }
            )
            yield translate_family(
                {
                    "name": "hopseal_broker_seconds",
                    "type": "histogram",
                    "help": "Time.",
                    "samples": [{"labels": {}, "buckets": [[0.1, 1], [1, 3]], "sum": 2.5, "count": 4}],
                }
            )
            yield translate_family(
                {
                    "name": "hopseal_broker_open",
                    "type": "gauge",
                    "help": "Open.",
                    "samples": [{"labels": {}, "value": 3}],
                }
            )
            yield translate_family({"name": "hopseal_broker_none", "type": "counter", "help": "None.", "samples": []})

    text = render_metrics(Collector()).decode()
    assert 'hopseal_broker_calls_total{code="a\\"\\n",direction="out"} 2.0' in text
    assert 'hopseal_broker_seconds_bucket{le="1"} 3.0' in text
    assert 'hopseal_broker_seconds_bucket{le="+Inf"} 4.0' in text
    assert "hopseal_broker_seconds_sum 2.5" in text
    assert "hopseal_broker_open 3.0" in text


# Watches, pauses, tasks.


async def test_a_follower_sees_the_newest_value_and_misses_no_change():
    watch: Watch[int] = Watch(0)
    assert (watch.value, watch.version) == (0, 0)
    watch.publish(1)
    watch.publish(2)
    assert await watch.wait_change(0) == 2
    waiter = asyncio.create_task(watch.wait_change(2))
    await asyncio.sleep(0)
    watch.publish(3)
    assert await waiter == 3
    assert watch.value == 3


def test_pauses_grow_to_a_bound_are_jittered_and_start_again():
    backoff = Backoff(random.Random(7), first_s=1.0, longest_s=4.0)
    pauses = [backoff.next_s() for _ in range(5)]
    for pause, bound in zip(pauses, (1, 2, 4, 4, 4), strict=True):
        assert bound / 2 <= pause <= bound
    assert pauses[2] != pauses[3]
    backoff.reset()
    assert backoff.next_s() <= 1.0


async def test_work_that_somebody_else_cancels_is_an_error_and_no_cancellation():
    async def work() -> None:
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    with pytest.raises(UnavailableError, match="stream_cancelled"):
        await run_isolated(work())
    assert asyncio.current_task().cancelling() == 0


async def test_our_own_cancellation_ends_the_work_first():
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    task = asyncio.create_task(run_isolated(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


async def test_a_cancellation_that_meets_a_failure_is_not_lost():
    async def work() -> None:
        raise OSError("broken")

    task = asyncio.create_task(run_isolated(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises((asyncio.CancelledError, OSError)) as caught:
        await task
    assert caught.type is asyncio.CancelledError or task.cancelling() == 0
