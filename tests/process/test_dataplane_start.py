"""Starting and stopping a data plane, and what its binding refuses."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import socket
import threading
from pathlib import Path

import pytest

from broker._dataplane import DataPlane, DataPlaneError
from dataplane_nodes import TRUST_DOMAIN, Component, Node, answer, call, descriptors, instance, pair, spiffe_id
from svid_authority import Authority
from waiting import wait_until


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "n", Authority(TRUST_DOMAIN))


def code_of_start(node: Node) -> str:
    with pytest.raises(DataPlaneError) as caught:
        node.plane.start()
    return caught.value.args[0]


def test_a_live_daemon_keeps_its_socket(node: Node, tmp_path: Path) -> None:
    node.start()
    other = Node(tmp_path / "m", node.authority, settings={"out_socket": str(node.out)})
    assert code_of_start(other) == "socket_in_use"
    assert node.out.is_socket()
    node.stop()
    assert not node.out.exists()


def test_a_socket_that_another_program_serves_is_left_alone(node: Node) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(node.out))
        other.listen()
        assert code_of_start(node) == "socket_in_use"
    assert node.out.is_socket()


def test_a_stale_socket_is_replaced(node: Node) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(node.out))
    node.start()
    assert call(node).code == "callee_unavailable"
    node.stop()


@pytest.mark.parametrize("kind", ["file", "symlink", "folder"])
def test_a_path_that_is_no_socket_is_never_replaced(node: Node, tmp_path: Path, kind: str) -> None:
    if kind == "file":
        node.out.write_text("precious")
    elif kind == "symlink":
        node.out.symlink_to(tmp_path / "elsewhere")
    else:
        node.out.mkdir()
    assert code_of_start(node) == "socket_path_occupied"
    assert node.out.is_symlink() or node.out.exists()


def test_a_folder_that_others_can_write_is_refused(node: Node) -> None:
    node.folder.chmod(0o777)
    assert code_of_start(node) == "socket_folder_unsafe"


def test_everybody_may_connect_and_the_mode_is_settable(tmp_path: Path) -> None:
    for mode in (None, "0660"):
        settings = {"out_socket_mode": mode} if mode else {}
        node = Node(tmp_path / str(mode), Authority(TRUST_DOMAIN), settings=settings).start()
        assert node.out.stat().st_mode & 0o777 == int(mode or "0777", 8)
        node.stop()


def test_a_peer_port_in_use_is_refused_and_nothing_is_left_behind(node: Node, tmp_path: Path) -> None:
    node.start()
    settings = {"peer_listen": f"127.0.0.1:{node.port}"}
    other = Node(tmp_path / "m", node.authority, settings=settings)
    assert code_of_start(other) == "peer_port_in_use"
    assert not other.out.exists()
    node.stop()


def test_a_data_plane_starts_once(node: Node) -> None:
    node.start()
    assert code_of_start(node) == "started_twice"
    node.stop()
    assert code_of_start(node) == "started_twice"
    node.plane.stop()


@pytest.mark.parametrize("settings", ["", "[]", "{}", '{"unknown":1}'])
def test_bad_settings_are_refused(settings: str) -> None:
    with pytest.raises(DataPlaneError) as caught:
        DataPlane(settings)
    assert caught.value.args[0] == "settings_invalid"


def test_commands_with_bad_arguments_change_nothing(node: Node) -> None:
    plane, svid = node.plane, node.authority.issue(spiffe_id("tool"))
    other = node.authority.issue(spiffe_id("tool"))
    chain = list(svid.chain_der)
    name = (instance("tool"), "crm/tool")
    cases = [
        (
            "identity_invalid",
            lambda: plane.set_identity(*name, spiffe_id("tool"), chain, other.key_pkcs8, svid.expires_at),
        ),
        ("identity_invalid", lambda: plane.set_identity(*name, spiffe_id("x"), chain, svid.key_pkcs8, svid.expires_at)),
        ("identity_invalid", lambda: plane.set_identity(*name, spiffe_id("tool"), [], svid.key_pkcs8, svid.expires_at)),
        ("identity_invalid", lambda: plane.set_identity(*name, spiffe_id("tool"), [b"x"], svid.key_pkcs8, 1)),
        ("identity_invalid", lambda: plane.set_identity(*name, spiffe_id("tool"), chain, b"x", svid.expires_at)),
        ("bundle_invalid", lambda: plane.set_bundles([("Not A Domain", [], 1)])),
        ("bundle_invalid", lambda: plane.set_bundles([(TRUST_DOMAIN, [b"x"], 1)])),
        ("components_invalid", lambda: plane.set_components('[{"component":"x"}]')),
        ("routes_invalid", lambda: plane.set_routes("[]")),
        ("policy_invalid", lambda: plane.set_policies("permit(", "[]")),
        ("policy_invalid", lambda: plane.set_policies("", "{")),
    ]
    for code, command in cases:
        with pytest.raises(DataPlaneError) as caught:
            command()
        assert caught.value.args[0] == code


def test_answers_about_unknown_processes_are_ignored(node: Node) -> None:
    plane = node.plane
    plane.admit_caller(1, "x", "crm/tool")
    plane.refuse_caller(1, "x", False)
    plane.forget_caller(1)
    plane.refuse_listener("crm/tool", 1, "x")
    plane.forget_listener("crm/tool", 1)
    plane.withdraw("x", "crm/tool", "x")
    assert not node.of("caller_seen")


def test_draining_takes_nothing_new_and_waits_for_what_is_under_way(tmp_path: Path) -> None:
    go_on = threading.Event()

    def slow(handler, _seen) -> None:
        assert go_on.wait(10)
        answer(handler, b"done")

    with pair(tmp_path) as (a, _b, tool):
        tool.respond = slow
        answers: list = []
        caller = threading.Thread(target=lambda: answers.append(call(a)))
        caller.start()
        wait_until(lambda: tool.seen)
        drained = threading.Event()
        drainer = threading.Thread(target=lambda: (a.plane.drain(10), drained.set()))
        drainer.start()
        wait_until(lambda: not a.out.exists())
        with pytest.raises(OSError):
            call(a)
        assert not drained.is_set()
        go_on.set()
        caller.join()
        drainer.join()
        assert answers[0].body == b"done"


def test_stopping_with_calls_under_way_ends_at_once(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, tool):
        hold = threading.Event()
        tool.respond = lambda _handler, _seen: hold.wait(10) and None

        def end() -> None:
            # Which of its two connections closes first is not said.
            with contextlib.suppress(OSError, http.client.HTTPException):
                assert call(a).code == "peer_unreachable"

        caller = threading.Thread(target=end)
        caller.start()
        wait_until(lambda: tool.seen)
        a.plane.stop()
        caller.join(2)
        assert not caller.is_alive()
        hold.set()


def test_no_descriptor_is_left_after_stopping(tmp_path: Path) -> None:
    before = descriptors()
    for n in range(3):
        with pair(tmp_path / str(n)) as (a, _b, _tool):
            assert call(a).status == 200
        del a, _b
    wait_until(lambda: descriptors() <= before)


def test_several_worker_threads_serve_as_one_does(tmp_path: Path) -> None:
    path = tmp_path / "tool.sock"
    with Component(path):
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path}, settings={"worker_threads": 3})
        node.start()
        assert [call(node).status for _ in range(20)] == [200] * 20
        node.stop()


def test_the_event_descriptor_is_readable_while_events_wait(node: Node) -> None:
    readable = lambda: bool(select.select([node.plane.event_fd()], [], [], 0)[0])  # noqa: E731
    node.plane.take_events()
    assert not readable()
    node.plane.withdraw("x", "crm/tool", "drifted")
    assert readable()
    (event,) = [json.loads(text) for text in node.plane.take_events()]
    assert (event["event"], event["code"], event["had_identity"]) == ("withdrawn", "drifted", False)
    assert not readable()
    os.fstat(node.plane.event_fd())
