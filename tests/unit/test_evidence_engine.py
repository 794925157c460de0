"""What an engine's answers may look like, and which are refused whole."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from attestor.engine.errors import ContainerUnknown, EngineInvalid
from attestor.engine.events import ContainerEvent, parse_event
from attestor.engine.inspect import is_container_id, parse_container, parse_image, parse_list

ID = "8a6ee04133eb8a5e4702e072473dc5e49f10d31b4a10a18791a30ae015ea0382"
IMAGE = "sha256:" + "ab" * 32
MANIFEST = "sha256:" + "cd" * 32
ANSWER: dict[str, Any] = {
    "Id": ID,
    "Name": "/crm",
    "Image": IMAGE,
    "State": {"Running": True, "Pid": 4966},
    "Config": {"Labels": {"team": "sales"}, "Image": "registry.example/crm:latest"},
    "HostConfig": {
        "Privileged": False,
        "SecurityOpt": None,
        "Devices": [{"PathOnHost": "/dev/fuse"}],
        "Sysctls": {"net.core.somaxconn": "1"},
        "MaskedPaths": ["/proc/kcore"],
        "PortBindings": {"80/tcp": [{"HostPort": "8080"}], "81/tcp": None},
    },
    "Mounts": [{"Type": "bind", "Source": "/etc", "Destination": "/host-etc", "RW": False}],
}


def changed(path: str, value: object) -> dict[str, Any]:
    answer = copy.deepcopy(ANSWER)
    *folders, last = path.split(".")
    place = answer
    for folder in folders:
        place = place[folder]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return answer


def test_a_running_container_is_described_by_its_id_and_the_digest_of_its_image() -> None:
    facts = parse_container(ANSWER, ID, "docker")
    assert (facts.id, facts.name, facts.pid, facts.image_id) == (ID, "crm", 4966, IMAGE)
    assert dict(facts.labels) == {"team": "sales"}
    assert facts.host.devices == ("/dev/fuse",)
    assert facts.host.host_ports == ("80/tcp",)
    assert facts.host.masked_paths == ("/proc/kcore",)
    assert [mount.source for mount in facts.host.mounts] == ["/etc"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("Id", "8a6ee04133eb"),
        ("Id", "f" * 64),
        ("Id", ...),
        ("Image", "crm:latest"),
        ("Image", "sha256:abc"),
        ("Image", ...),
        ("Name", 7),
        ("State", None),
        ("State.Pid", "4966"),
        ("State.Pid", True),
        ("State.Pid", 1.5),
        ("State.Running", 1),
        ("Config", []),
        ("Config.Labels", {"a": 1}),
        ("Config.Labels", ["a"]),
        ("HostConfig", None),
        ("HostConfig.Privileged", None),
        ("HostConfig.Privileged", "false"),
        ("HostConfig.SecurityOpt", "seccomp=unconfined"),
        ("HostConfig.Devices", [{}]),
        ("HostConfig.Devices", [None]),
        ("HostConfig.MaskedPaths", [1]),
        ("HostConfig.PortBindings", []),
        ("Mounts", {}),
        ("Mounts", [{"Type": 1, "Destination": "/x"}]),
    ],
)
def test_a_field_of_the_wrong_kind_refuses_the_whole_answer(path: str, value: object) -> None:
    with pytest.raises(EngineInvalid):
        parse_container(changed(path, value), ID, "docker")


@pytest.mark.parametrize(("path", "value"), [("State.Running", False), ("State.Pid", 0), ("State.Pid", -1)])
def test_a_stopped_container_is_no_container(path: str, value: object) -> None:
    with pytest.raises(ContainerUnknown):
        parse_container(changed(path, value), ID, "docker")


@pytest.mark.parametrize("answer", [None, [], "x", 1, {}, {"Id": ID}])
def test_an_answer_that_is_no_container_is_refused(answer: object) -> None:
    with pytest.raises(EngineInvalid):
        parse_container(answer, ID, "docker")


def test_an_image_has_its_config_digest_and_every_manifest_digest() -> None:
    answer = {"Id": IMAGE, "RepoDigests": [f"registry.example/crm@{MANIFEST}"], "RepoTags": ["crm:latest"]}
    assert parse_image(answer, IMAGE) == {IMAGE, MANIFEST}
    assert parse_image({"Id": IMAGE, "RepoDigests": None}, IMAGE) == {IMAGE}
    assert parse_image({"Id": IMAGE, "RepoDigests": ["<none>"]}, IMAGE) == {IMAGE}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {"Id": MANIFEST},
        {"Id": IMAGE, "RepoDigests": ["x@sha256:12"]},
        {"Id": IMAGE, "RepoDigests": [1]},
        {"Id": IMAGE, "RepoDigests": "x"},
        {"RepoDigests": []},
    ],
)
def test_an_answer_about_another_image_is_refused(answer: object) -> None:
    with pytest.raises(EngineInvalid):
        parse_image(answer, IMAGE)


def test_a_list_holds_full_ids_only() -> None:
    assert parse_list([{"Id": ID}]) == (ID,)
    assert parse_list([]) == ()
    for bad in ([{"Id": "short"}], [{}], [ID], {"Id": ID}):
        with pytest.raises(EngineInvalid):
            parse_list(bad)


@pytest.mark.parametrize("text", [ID[:-1], ID + "0", ID.upper(), "g" * 64, "", ID + "\n", "../" + ID[3:]])
def test_only_sixty_four_lower_case_hexadecimal_digits_are_an_id(text: str) -> None:
    assert is_container_id(ID)
    assert not is_container_id(text)


def event(**fields: object) -> bytes:
    return json.dumps({"Type": "container", "Action": "die", "Actor": {"ID": ID}, "timeNano": 5, **fields}).encode()


def test_events_carry_the_id_and_one_word_in_both_engines_vocabulary() -> None:
    assert parse_event(event()) == ContainerEvent(ID, "die", 5)
    assert parse_event(event(Action="exec_start: /bin/sh -c x")) == ContainerEvent(ID, "exec_start", 5)
    assert parse_event(event(Action="died")) == ContainerEvent(ID, "die", 5)
    assert parse_event(event(Action="remove")) == ContainerEvent(ID, "destroy", 5)
    assert parse_event(event(timeNano="5")) == ContainerEvent(ID, "die", 0)


@pytest.mark.parametrize(
    "line", [b"", b"  ", event(Type="network"), event(Actor={"ID": "x"}), event(Actor=None), event(Action=None)]
)
def test_what_is_not_about_a_container_is_no_event(line: bytes) -> None:
    assert parse_event(line) is None


@pytest.mark.parametrize("line", [b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_a_line_that_is_no_object_ends_the_stream(line: bytes) -> None:
    with pytest.raises(EngineInvalid):
        parse_event(line)
