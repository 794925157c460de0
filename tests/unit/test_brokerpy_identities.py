"""The life of identities: admitted, rotated, withdrawn, kept over a loss, and never longer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import asynccontextmanager

import pytest

from broker.attestor_link import IdentityUpdate
from broker.identities.registry import Identities
from broker.identities.tracked import TrackedState
from broker.references import CallerRef, ListenerRef, Reference
from broker_parts import component, documents
from fake_dataplane import FakeDataPlane
from hopseal.documents.model import DocumentSet
from hopseal.errors import DeniedError, UnavailableError
from hopseal.ids import SpiffeId
from hopseal.svid import X509Svid
from waiting import async_wait_until

FRONT = component("front")
STORE = component("store", listen="/run/store.sock")
DOCUMENTS = documents(FRONT, STORE)
EXPIRY = 2_000_000_000


def svid(of=FRONT, expires_at: int = EXPIRY, key: bytes = b"key") -> X509Svid:
    return X509Svid(of.spiffe_id, (b"leaf",), key, expires_at)


class FakeApi:
    """The attestor as the identities see it, steered by the test."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.connected.set()
        self.streams: dict[Reference, Callable[[IdentityUpdate], None]] = {}
        self.ends: dict[Reference, asyncio.Future] = {}
        self.asked: list[Reference] = []
        self.tasks: dict[Reference, asyncio.Task] = {}

    @property
    def is_connected(self) -> bool:
        return self.connected.is_set()

    async def wait_connected(self) -> None:
        await self.connected.wait()

    async def subscribe(self, reference: Reference, on_update: Callable[[IdentityUpdate], None]) -> None:
        if not self.is_connected:
            raise UnavailableError("attestor_unavailable", "away")
        self.asked.append(reference)
        end = self.ends[reference] = asyncio.get_running_loop().create_future()
        queue: asyncio.Queue = asyncio.Queue()
        self.streams[reference] = queue.put_nowait
        try:
            while True:
                getter = asyncio.ensure_future(queue.get())
                await asyncio.wait({getter, end}, return_when=asyncio.FIRST_COMPLETED)
                if end.done():
                    getter.cancel()
                    raise end.exception()
                on_update(getter.result())
        finally:
            self.streams.pop(reference, None)

    async def say(self, reference: Reference, *svids: X509Svid, instance: str = "one") -> None:
        await async_wait_until(lambda: reference in self.streams)
        self.streams[reference](IdentityUpdate(instance, svids))

    async def deny(self, reference: Reference, code: str) -> None:
        await async_wait_until(lambda: reference in self.streams)
        self.ends[reference].set_exception(DeniedError(code, "no"))

    def lose(self) -> None:
        """The connection is gone, and with it every stream."""
        self.connected.clear()
        for reference in list(self.streams):
            self.streams.pop(reference)
            self.ends[reference].set_exception(UnavailableError("attestor_unavailable", "lost"))


class World:
    def __init__(self, documents: DocumentSet | None = DOCUMENTS, **options) -> None:
        self.api = FakeApi()
        self.plane = FakeDataPlane()
        options = {"limit": 100, "grace_s": 0.3, "refused_s": 60.0, "idle_s": 60.0} | options
        self.identities = Identities(self.api, self.plane, source=random.Random(1), **options)
        if documents is not None:
            self.identities.set_documents(documents)

    async def admitted(self, inode: int) -> None:
        await async_wait_until(lambda: self.plane.callers.get(inode, ("",))[0] == "admitted", what="admission")

    async def caller(self, inode: int, *svids: X509Svid, instance: str = "one") -> None:
        self.identities.see_caller(inode, pid=1)
        await self.api.say(CallerRef(inode), *(svids or (svid(),)), instance=instance)
        await self.admitted(inode)


@asynccontextmanager
async def world(**options):
    made = World(**options)
    task = asyncio.create_task(made.identities.run())
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        assert not task.done(), task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_caller_is_admitted_only_after_its_key_is_installed():
    async with world() as w:
        await w.caller(5)
        assert [call[0] for call in w.plane.calls] == ["set_identity", "admit_caller"]
        assert w.plane.callers[5] == ("admitted", "one", "crm/front")
        assert w.plane.identities["one", "crm/front"].spiffe_id == str(FRONT.spiffe_id)


async def test_a_rotated_svid_replaces_the_key_without_a_new_admission():
    async with world() as w:
        await w.caller(5)
        await w.api.say(CallerRef(5), svid(expires_at=EXPIRY + 9, key=b"new"))
        await async_wait_until(lambda: w.plane.identities["one", "crm/front"].key_pkcs8 == b"new")
        assert len(w.plane.named("admit_caller")) == 1


async def test_the_same_svid_again_installs_nothing():
    async with world() as w:
        await w.caller(5)
        await w.api.say(CallerRef(5), svid())
        await w.api.say(CallerRef(5), svid(expires_at=EXPIRY + 1))
        await async_wait_until(lambda: len(w.plane.named("set_identity")) == 2)
        assert [expires for *_, expires in w.plane.named("set_identity")] == [EXPIRY, EXPIRY + 1]


async def test_a_second_process_of_the_instance_is_admitted_under_the_first_ones_key():
    async with world() as w:
        await w.caller(5)
        await w.caller(6, svid(key=b"other"))
        assert w.plane.identities["one", "crm/front"].key_pkcs8 == b"key"
        assert len(w.plane.named("set_identity")) == 1


async def test_when_the_first_process_exits_the_next_ones_key_takes_over():
    async with world() as w:
        await w.caller(5)
        await w.caller(6, svid(key=b"other"))
        await w.api.deny(CallerRef(5), "process_exited")
        await async_wait_until(lambda: w.plane.identities["one", "crm/front"].key_pkcs8 == b"other")
        assert w.plane.named("withdraw") == []
        assert w.plane.callers[6][0] == "admitted"


async def test_the_last_process_takes_the_key_with_it():
    async with world() as w:
        await w.caller(5)
        await w.api.deny(CallerRef(5), "process_exited")
        await async_wait_until(lambda: w.plane.named("withdraw"))
        assert w.plane.named("withdraw") == [("one", "crm/front", "caller_gone")]
        assert w.plane.callers[5] == ("refused", "caller_gone")


async def test_drift_of_one_process_withdraws_its_whole_instance_at_once():
    async with world() as w:
        await w.caller(5)
        await w.caller(6)
        await w.caller(7, instance="two")
        await w.api.deny(CallerRef(5), "config_changed")
        await async_wait_until(lambda: w.plane.named("withdraw"))
        assert w.plane.named("withdraw") == [("one", "crm/front", "identity_none")]
        assert w.plane.callers[5] == ("refused", "identity_none")
        assert 6 not in w.plane.callers
        assert (6,) in w.plane.named("forget_caller")
        assert w.plane.callers[7][0] == "admitted"


async def test_drift_does_not_wait_for_the_grace():
    async with world(grace_s=60.0) as w:
        await w.caller(5)
        await w.api.deny(CallerRef(5), "posture_changed")
        await async_wait_until(lambda: not w.plane.identities, timeout_s=0.5)


async def test_a_process_that_was_never_attested_harms_no_instance():
    async with world() as w:
        await w.caller(5)
        w.identities.see_caller(6, pid=2)
        await w.api.deny(CallerRef(6), "container_entered")
        await async_wait_until(lambda: w.plane.callers.get(6) == ("refused", "identity_none"))
        assert w.plane.named("withdraw") == []
        assert w.plane.callers[5][0] == "admitted"


async def test_the_component_is_never_told_the_attestors_own_reason():
    async with world() as w:
        w.identities.see_caller(6, pid=2)
        await w.api.deny(CallerRef(6), "image_mismatch")
        await async_wait_until(lambda: 6 in w.plane.callers)
        assert w.plane.named("refuse_caller") == [(6, "identity_none", False)]


async def test_several_spiffe_ids_are_refused_as_ambiguous():
    async with world() as w:
        w.identities.see_caller(5, pid=1)
        await w.api.say(CallerRef(5), svid(FRONT), svid(STORE))
        await async_wait_until(lambda: 5 in w.plane.callers)
        assert w.plane.callers[5] == ("refused", "identity_ambiguous")
        assert not w.plane.identities


async def test_becoming_ambiguous_withdraws():
    async with world() as w:
        await w.caller(5)
        await w.api.say(CallerRef(5), svid(FRONT), svid(STORE))
        await async_wait_until(lambda: w.plane.named("withdraw") == [("one", "crm/front", "identity_ambiguous")])


async def test_several_svids_of_one_spiffe_id_count_as_one_the_longest():
    async with world() as w:
        await w.caller(5, svid(expires_at=10), svid(expires_at=20), svid(expires_at=15))
        assert w.plane.identities["one", "crm/front"].expires_at == 20


async def test_an_identity_that_no_document_names_is_refused():
    stranger = X509Svid(SpiffeId.parse("spiffe://example.org/agents/x/y"), (b"leaf",), b"key", EXPIRY)
    async with world() as w:
        w.identities.see_caller(5, pid=1)
        await w.api.say(CallerRef(5), stranger)
        await async_wait_until(lambda: w.plane.callers.get(5) == ("refused", "identity_none"))


async def test_an_answer_without_an_svid_is_waited_on_for_half_a_second():
    async with world() as w:
        w.identities.see_caller(5, pid=1)
        await w.api.say(CallerRef(5))
        await w.api.say(CallerRef(5), svid())
        await w.admitted(5)
        await w.api.say(CallerRef(5))
        await w.api.say(CallerRef(5), svid())
        started = asyncio.get_running_loop().time()
        await w.api.say(CallerRef(5))
        await async_wait_until(lambda: w.plane.named("withdraw"))
        assert 0.4 <= asyncio.get_running_loop().time() - started < 2
        assert w.plane.named("withdraw") == [("one", "crm/front", "identity_none")]


async def test_a_process_without_an_svid_is_refused_after_half_a_second():
    async with world() as w:
        w.identities.see_caller(5, pid=1)
        await w.api.say(CallerRef(5))
        await async_wait_until(lambda: w.plane.callers.get(5) == ("refused", "identity_none"))


async def test_no_new_caller_is_admitted_while_the_attestor_is_away():
    async with world() as w:
        w.api.lose()
        w.identities.see_caller(5, pid=1)
        assert w.plane.named("refuse_caller") == [(5, "attestor_unavailable", True)]
        assert w.api.asked == []


async def test_before_the_first_documents_a_caller_is_told_to_retry_and_then_admitted():
    async with world(documents=None) as w:
        w.identities.see_caller(7, 70)
        assert w.plane.named("refuse_caller") == [(7, "attestor_unavailable", True)]
        assert w.api.asked == []
        w.identities.set_documents(DOCUMENTS)
        await w.caller(7, svid())
        assert 7 in w.plane.callers


async def test_a_caller_that_was_being_asked_about_when_the_attestor_went_is_told_to_retry():
    async with world() as w:
        w.identities.see_caller(5, pid=1)
        await async_wait_until(lambda: CallerRef(5) in w.api.streams)
        w.api.lose()
        await async_wait_until(lambda: w.plane.named("refuse_caller") == [(5, "attestor_unavailable", True)])
        w.api.connected.set()
        await w.caller(5)


async def test_a_caller_is_asked_about_again_when_only_its_stream_was_lost():
    async with world() as w:
        for chance in (1, 2):
            w.identities.see_caller(5, pid=1)
            for _ in range(2):
                await async_wait_until(lambda: CallerRef(5) in w.api.streams)
                assert len(w.plane.named("refuse_caller")) == chance - 1
                w.api.streams.pop(CallerRef(5))
                w.api.ends[CallerRef(5)].set_exception(UnavailableError("attestor_unavailable", "rotated"))
            await async_wait_until(lambda chance=chance: len(w.plane.named("refuse_caller")) == chance)
        assert w.api.asked == [CallerRef(5)] * 4


async def test_identities_survive_a_short_loss_and_are_referenced_again():
    async with world(grace_s=5.0) as w:
        await w.caller(5)
        w.api.lose()
        await async_wait_until(lambda: not w.api.streams)
        assert w.plane.callers[5][0] == "admitted"
        w.api.connected.set()
        await w.api.say(CallerRef(5), svid())
        await async_wait_until(lambda: w.identities.snapshot()[0][0].state == "confirmed")
        assert w.api.asked == [CallerRef(5), CallerRef(5)]
        assert w.plane.named("withdraw") == []
        assert w.plane.callers[5][0] == "admitted"


async def test_identities_that_are_not_confirmed_within_the_grace_are_withdrawn():
    async with world(grace_s=0.2) as w:
        await w.caller(5)
        started = asyncio.get_running_loop().time()
        w.api.lose()
        await async_wait_until(lambda: w.plane.named("withdraw"))
        assert asyncio.get_running_loop().time() - started >= 0.19
        assert w.plane.named("withdraw") == [("one", "crm/front", "attestor_unavailable")]
        assert w.plane.named("refuse_caller") == [(5, "attestor_unavailable", True)]


async def test_a_silent_attestor_after_the_reconnect_does_not_prolong_the_grace():
    async with world(grace_s=0.2) as w:
        await w.caller(5)
        w.api.lose()
        w.api.connected.set()
        await async_wait_until(lambda: w.api.asked.count(CallerRef(5)) == 2)
        await async_wait_until(lambda: w.plane.named("withdraw"), timeout_s=1.0)


async def test_an_attestor_that_answers_without_svids_does_not_prolong_the_grace():
    async with world(grace_s=0.2) as w:
        await w.caller(5)
        w.api.lose()
        w.api.connected.set()
        await w.api.say(CallerRef(5))
        started = asyncio.get_running_loop().time()
        await async_wait_until(lambda: w.plane.named("withdraw"))
        assert asyncio.get_running_loop().time() - started < 0.35


async def test_a_refusal_after_the_reconnect_withdraws_before_the_grace_is_over():
    async with world(grace_s=60.0) as w:
        await w.caller(5)
        w.api.lose()
        w.api.connected.set()
        await async_wait_until(lambda: w.api.asked.count(CallerRef(5)) == 2)
        await w.api.deny(CallerRef(5), "config_changed")
        await async_wait_until(lambda: w.plane.named("withdraw"))


async def test_a_restarted_attestor_that_names_the_instance_otherwise_moves_the_process():
    async with world(grace_s=5.0) as w:
        await w.caller(5)
        w.api.lose()
        w.api.connected.set()
        await w.api.say(CallerRef(5), svid(), instance="renamed")
        await async_wait_until(lambda: w.plane.callers[5] == ("admitted", "renamed", "crm/front"))
        assert list(w.plane.identities) == [("renamed", "crm/front")]


async def test_an_idle_caller_is_dropped_and_its_key_with_it():
    async with world(idle_s=0.05) as w:
        await w.caller(5)
        w.identities.note_idle(5)
        await async_wait_until(lambda: not w.plane.identities)
        assert w.plane.named("forget_caller") == [(5,)]
        assert w.identities.snapshot() == ()
        await async_wait_until(lambda: not w.api.streams)


@pytest.mark.parametrize("back", ["note_active", "see_caller"])
async def test_a_caller_that_comes_back_in_time_is_kept(back):
    async with world(idle_s=0.05) as w:
        await w.caller(5)
        w.identities.note_idle(5)
        w.identities.note_active(5) if back == "note_active" else w.identities.see_caller(5, pid=1)
        await asyncio.sleep(0.1)
        assert w.plane.callers[5][0] == "admitted"


async def test_a_caller_that_hung_up_before_it_was_admitted_is_admitted_when_it_comes_back():
    """The data plane forgets whoever hangs up unanswered, so the answer came to nobody."""
    async with world() as w:
        await w.caller(5)
        w.identities.note_idle(5)
        del w.plane.callers[5]
        w.identities.see_caller(5, pid=1)
        assert w.plane.callers[5] == ("admitted", "one", "crm/front")


async def test_a_caller_that_is_not_confirmed_now_is_not_admitted_when_it_comes_back():
    async with world(grace_s=60.0) as w:
        await w.caller(5)
        w.api.lose()
        await async_wait_until(lambda: w.identities.snapshot()[0][0].state is TrackedState.UNCONFIRMED)
        del w.plane.callers[5]
        w.identities.see_caller(5, pid=1)
        assert 5 not in w.plane.callers


async def test_a_refused_process_may_ask_again_after_a_while():
    async with world(refused_s=0.05) as w:
        w.identities.see_caller(5, pid=1)
        await w.api.deny(CallerRef(5), "no_document")
        await async_wait_until(lambda: (5,) in w.plane.named("forget_caller"))
        await w.caller(5)


async def test_changed_documents_let_every_refused_process_ask_again():
    async with world() as w:
        w.identities.see_caller(5, pid=1)
        await w.api.deny(CallerRef(5), "no_document")
        await async_wait_until(lambda: 5 in w.plane.callers)
        w.identities.set_documents(DOCUMENTS)
        assert 5 not in w.plane.callers


async def test_a_component_that_is_documented_no_more_is_withdrawn():
    async with world() as w:
        await w.caller(5)
        w.identities.set_documents(documents(STORE))
        assert w.plane.named("withdraw") == [("one", "crm/front", "identity_none")]
        await async_wait_until(lambda: not w.api.streams)


async def test_processes_are_followed_up_to_the_limit():
    async with world(limit=2) as w:
        await w.caller(5)
        await w.caller(6)
        w.identities.see_caller(7, pid=1)
        assert w.plane.named("refuse_caller") == [(7, "attestor_unavailable", True)]
        await w.api.deny(CallerRef(6), "process_exited")
        await async_wait_until(lambda: 6 in w.plane.callers and w.plane.callers[6][0] == "refused")
        await w.caller(7)


async def test_a_listener_is_admitted_under_its_own_component():
    async with world() as w:
        w.identities.see_listener("crm/store", 9)
        await w.api.say(ListenerRef(9, "crm/store", "/run/store.sock"), svid(STORE), instance="box")
        await async_wait_until(lambda: w.plane.listeners.get(("crm/store", 9)) == ("admitted", "box"))
        assert w.identities.is_listener_admitted("crm/store")


async def test_another_component_on_the_socket_is_refused():
    async with world() as w:
        w.identities.see_listener("crm/store", 9)
        await w.api.say(ListenerRef(9, "crm/store", "/run/store.sock"), svid(FRONT))
        await async_wait_until(lambda: ("crm/store", 9) in w.plane.listeners)
        assert w.plane.listeners["crm/store", 9][0] == "refused"
        assert w.identities.last_refusal("crm/store").code == "listener_not_component"
        assert not w.plane.identities


async def test_a_listener_of_an_unknown_component_is_refused_unasked():
    async with world() as w:
        w.identities.see_listener("crm/ghost", 9)
        assert w.plane.listeners["crm/ghost", 9][0] == "refused"
        assert w.api.asked == []


async def test_a_replaced_socket_voids_what_was_found_about_its_exited_listener():
    async with world() as w:
        w.identities.see_listener("crm/store", 0)
        await w.api.say(ListenerRef(0, "crm/store", "/run/store.sock"), svid(STORE))
        await async_wait_until(lambda: w.plane.listeners.get(("crm/store", 0), ("",))[0] == "admitted")
        w.identities.forget_exited_listener("crm/store")
        assert ("crm/store", 0) not in w.plane.listeners
        assert not w.plane.identities


async def test_a_caller_keeps_the_instance_alive_when_its_listener_exits():
    async with world() as w:
        await w.caller(5, svid(STORE))
        w.identities.see_listener("crm/store", 9)
        await w.api.say(ListenerRef(9, "crm/store", "/run/store.sock"), svid(STORE))
        await async_wait_until(lambda: w.identities.is_listener_admitted("crm/store"))
        await w.api.deny(ListenerRef(9, "crm/store", "/run/store.sock"), "process_exited")
        await async_wait_until(lambda: not w.identities.is_listener_admitted("crm/store"))
        assert w.plane.named("withdraw") == []
        assert w.plane.callers[5][0] == "admitted"


async def test_an_svid_that_the_data_plane_cannot_use_is_a_refusal_and_no_crash():
    async with world() as w:
        w.plane.refuse_identities = True
        w.identities.see_caller(5, pid=1)
        await w.api.say(CallerRef(5), svid())
        await async_wait_until(lambda: w.plane.callers.get(5) == ("refused", "identity_none"))
        w.plane.refuse_identities = False
        await w.caller(6)


async def test_a_bug_about_one_process_leaves_the_others_alone():
    async with world() as w:
        await w.caller(5)
        w.identities.see_caller(6, pid=1)
        await async_wait_until(lambda: CallerRef(6) in w.api.streams)
        w.api.ends[CallerRef(6)].set_exception(RuntimeError("a bug"))
        await async_wait_until(lambda: w.plane.callers.get(6) == ("refused", "identity_none"))
        assert w.plane.callers[5][0] == "admitted"
