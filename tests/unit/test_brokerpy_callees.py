"""Finding out who answers on the sockets of this node's components."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from broker.callees import PROBE_S, Callees, CalleeState
from broker.identities.registry import Refusal
from broker.process import Listener
from broker.tcp_callees import NoListenerError
from broker_parts import component, documents


class FakeIdentities:
    def __init__(self) -> None:
        self.is_available = True
        self.seen: list[tuple[str, int]] = []
        self.forgotten: list[str] = []
        self.admitted: set[str] = set()
        self.refused: dict[str, Refusal] = {}

    def see_listener(self, name: str, inode: int) -> None:
        self.seen.append((name, inode))

    def forget_exited_listener(self, name: str) -> None:
        self.forgotten.append(name)

    def is_listener_admitted(self, name: str) -> bool:
        return name in self.admitted

    def last_refusal(self, name: str) -> Refusal | None:
        return self.refused.get(name)


class World:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.identities = FakeIdentities()
        self.now = 100.0
        self.listener: Listener | None = Listener(5)
        self.probes = 0
        self.callees = Callees(self.identities, probe=self._probe, clock=lambda: self.now)
        self.callees.set_documents(documents(component("front"), component("store", listen=str(path))))

    def _probe(self, path: str) -> Listener | None:
        assert path == str(self.path)
        self.probes += 1
        return self.listener

    def bind(self) -> None:
        self.path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(self.path))

    def state(self) -> CalleeState:
        (only,) = self.callees.status()
        return only.state


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "store.sock")


def test_an_absent_socket_is_not_probed(world):
    world.callees.look()
    assert (world.probes, world.state()) == (0, CalleeState.ABSENT)


def test_a_socket_is_probed_when_it_appears(world):
    world.callees.look()
    world.bind()
    world.callees.look()
    assert world.identities.seen == [("crm/store", 5)]
    assert world.state() is CalleeState.ASKED


def test_it_is_probed_again_every_five_seconds_until_it_is_attested(world):
    world.bind()
    world.callees.look()
    world.now += PROBE_S - 0.1
    world.callees.look()
    assert world.probes == 1
    world.now += 0.2
    world.callees.look()
    assert world.probes == 2
    world.identities.admitted.add("crm/store")
    world.now += 100
    world.callees.look()
    assert world.probes == 2
    assert world.state() is CalleeState.ATTESTED
    world.identities.admitted.clear()
    world.callees.look()
    assert world.probes == 3


def test_no_socket_is_probed_while_the_attestor_is_away_and_each_at_once_when_it_is_back(world):
    world.identities.is_available = False
    world.bind()
    world.callees.look()
    assert world.probes == 0
    world.identities.is_available = True
    world.now += 0.1
    world.callees.look()
    assert world.probes == 1


def test_an_attested_listener_of_a_replaced_socket_is_not_believed_while_the_attestor_is_away(world):
    world.bind()
    world.callees.look()
    world.identities.admitted.add("crm/store")
    world.identities.is_available = False
    world.bind()
    world.callees.look()
    assert world.identities.forgotten[-1] == "crm/store"
    world.identities.is_available = True
    world.callees.look()
    assert world.probes == 2


def test_a_replaced_socket_is_probed_at_once_and_voids_the_exited_listener(world):
    world.bind()
    world.callees.look()
    world.identities.admitted.add("crm/store")
    world.identities.forgotten.clear()
    world.bind()
    world.listener = Listener(6)
    world.callees.look()
    assert world.identities.forgotten == ["crm/store"]
    assert world.identities.seen == [("crm/store", 5), ("crm/store", 6)]


def test_a_socket_that_disappears_voids_the_exited_listener(world):
    world.bind()
    world.callees.look()
    world.identities.forgotten.clear()
    world.path.unlink()
    world.callees.look()
    assert world.identities.forgotten == ["crm/store"]
    assert world.state() is CalleeState.ABSENT


def test_a_listener_that_has_exited_is_named_by_zero(world):
    world.bind()
    world.listener = Listener(0)
    world.callees.look()
    assert world.identities.seen == [("crm/store", 0)]


def test_nobody_listening_is_silent(world):
    world.bind()
    world.listener = None
    world.callees.look()
    assert world.identities.seen == []
    assert world.state() is CalleeState.SILENT


def test_a_refusal_shows_its_code(world):
    world.bind()
    world.callees.look()
    world.identities.refused["crm/store"] = Refusal("listener_not_component", "")
    (only,) = world.callees.status()
    assert (only.state, only.code) == (CalleeState.REFUSED, "listener_not_component")


@pytest.mark.parametrize("kind", ["file", "symlink", "folder"])
def test_what_is_no_socket_is_absent(world, kind, tmp_path):
    if kind == "file":
        world.path.write_text("")
    elif kind == "folder":
        world.path.mkdir()
    else:
        world.path.symlink_to(tmp_path / "elsewhere.sock")
    world.callees.look()
    assert (world.probes, world.state()) == (0, CalleeState.ABSENT)


def test_components_that_the_documents_drop_are_forgotten_and_the_rest_kept(world):
    world.bind()
    world.callees.look()
    world.callees.set_documents(documents(component("store", listen=str(world.path))))
    world.callees.look()
    assert world.probes == 1
    world.callees.set_documents(documents(component("store", listen="/run/elsewhere.sock")))
    assert [each.path for each in world.callees.status()] == ["/run/elsewhere.sock"]
    world.callees.set_documents(documents(component("store")))
    assert world.callees.status() == ()


def test_callees_are_known_once_whoever_answers_has_been_decided_about(world):
    assert world.callees.are_known  # nothing is there
    world.bind()
    world.callees.look()
    assert not world.callees.are_known
    world.identities.refused["crm/store"] = Refusal("exe_mismatch", "")
    assert world.callees.are_known
    world.identities.refused.clear()
    world.identities.admitted.add("crm/store")
    assert world.callees.are_known


def test_a_socket_at_which_nobody_answers_keeps_nobody_waiting(world):
    world.listener = None
    world.bind()
    world.callees.look()
    assert world.callees.are_known


class TcpWorld:
    """A component that listens on TCP, and an attestor that answers when the test says so."""

    def __init__(self) -> None:
        self.identities = FakeIdentities()
        self.now = 100.0
        self.asked = 0
        self.answer: asyncio.Future[Listener] = asyncio.get_running_loop().create_future()
        self.callees = Callees(self.identities, find_tcp=self._find, clock=lambda: self.now)
        self.callees.set_documents(documents(component("store", listen="tcp://127.0.0.1:8080")))
        self.running = asyncio.create_task(self.callees.run())

    async def _find(self, name: str) -> Listener:
        assert name == "crm/store"
        self.asked += 1
        return await asyncio.shield(self.answer)

    async def look(self) -> tuple[CalleeState, str]:
        self.callees.look()
        for _ in range(5):
            await asyncio.sleep(0)
        (only,) = self.callees.status()
        return only.state, only.code

    async def close(self) -> None:
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running


@pytest.fixture
async def tcp():
    made = TcpWorld()
    yield made
    await made.close()


async def test_the_attestor_is_asked_once_at_a_time_who_answers_on_tcp(tcp):
    assert await tcp.look() == (CalleeState.SILENT, "")
    await tcp.look()
    assert (tcp.asked, tcp.callees.are_known) == (1, False)
    tcp.answer.set_result(Listener(9))
    assert await tcp.look() == (CalleeState.ASKED, "")
    assert tcp.identities.seen == [("crm/store", 9)]
    tcp.identities.admitted.add("crm/store")
    tcp.now += 2 * PROBE_S
    assert (await tcp.look(), tcp.asked) == ((CalleeState.ATTESTED, ""), 1)


@pytest.mark.parametrize(
    ("code", "shown"),
    [("listener_gone", (CalleeState.SILENT, "")), ("listener_foreign", (CalleeState.REFUSED, "listener_foreign"))],
)
async def test_why_there_is_no_connection_is_shown_and_asked_again_later(tcp, code, shown):
    tcp.answer.set_exception(NoListenerError(code, ""))
    assert await tcp.look() == shown
    assert tcp.callees.are_known
    tcp.now += PROBE_S
    await tcp.look()
    assert tcp.asked == 2
    assert tcp.identities.seen == []
