"""Lines of /proc/PID/cgroup as they were seen in the field, and what they mean."""

from __future__ import annotations

import pytest

from attestor.collectors.cgroup import (
    Cgroup,
    CgroupInvalid,
    container_cgroups,
    main_path,
    parse_cgroup,
    systemd_unit,
)

A = "0a1b2c3d4e5f" * 5 + "abcd"
B = "f" * 64
V1 = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "name=systemd"]


def v1(path: str, unified: str = "/") -> str:
    lines = [f"{9 - number}:{name}:{path}" for number, name in enumerate(V1)]
    return "\n".join([*lines, f"0::{unified}", ""])


CORPUS = {
    "docker, cgroup v1 with the unified line at the root": (v1(f"/docker/{A}"), [A]),
    "docker, hybrid with the unified line filled": (v1(f"/docker/{A}", f"/docker/{A}"), [A]),
    "docker, v2, systemd driver": (f"0::/system.slice/docker-{A}.scope\n", [A]),
    "docker, v2, cgroupfs driver": (f"0::/docker/{A}\n", [A]),
    "docker, v2, with an init child": (f"0::/system.slice/docker-{A}.scope/init\n", [A]),
    "docker, custom parent": (f"0::/custom/parent/{A}\n", [A]),
    "docker rootless": (f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope\n", [A]),
    "docker in docker, outermost first": (f"0::/docker/{A}/docker/{B}\n", [A, B]),
    "podman, cgroupfs": (v1(f"/libpod_parent/libpod-{A}", f"/libpod_parent/libpod-{A}"), [A]),
    "podman, v2, systemd": (f"0::/machine.slice/libpod-{A}.scope\n", [A]),
    "podman, v2, with a container child": (f"0::/machine.slice/libpod-{A}.scope/container\n", [A]),
    "podman rootless": (
        f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container\n",
        [A],
    ),
    "podman, split cgroups": (f"0::/system.slice/web.service/libpod-payload-{A}\n", [A]),
    "podman's monitor is beside the container": (f"0::/machine.slice/libpod-conmon-{A}.scope\n", []),
    "cri-o": (f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234.slice/crio-{A}.scope\n", [A]),
    "cri-o's monitor is beside the container": (
        f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podab_cd.slice/crio-conmon-{A}.scope\n",
        [],
    ),
    "kubernetes, cgroupfs": (v1(f"/kubepods/burstable/pod0f6ce7a0-3f9c-4a3a-a3ae-9b9e8e0a5c11/{A}"), [A]),
    "kubernetes, guaranteed": (f"0::/kubepods/pod0f6ce7a0-3f9c-4a3a-a3ae-9b9e8e0a5c11/{A}\n", [A]),
    "kubernetes, systemd, containerd": (
        f"0::/kubepods.slice/kubepods-pod2c48913c_b29f.slice/cri-containerd-{A}.scope\n",
        [A],
    ),
    "kubernetes, containerd told the wrong driver": (
        f"0::/system.slice/containerd.service/kubepods-burstable-pod2c48.slice:cri-containerd:{A}\n",
        [A],
    ),
    "kubernetes in docker": (f"0::/docker/{A}/kubelet/kubepods/besteffort/pod1/{B}\n", [A, B]),
    "static pod with a hexadecimal pod uid": (f"0::/kubepods/burstable/pod{'ab' * 16}/{A}\n", [A]),
    "amazon ecs": (v1(f"/ecs/my-cluster/{'0f' * 16}/{A}"), [A]),
    "private cgroup namespace of the reader": (f"0::/../{A}\n", [A]),
    "private cgroup namespace, systemd": (f"0::/../../system.slice/docker-{A}.scope\n", [A]),
    "the reader's own cgroup": ("0::/\n", []),
    "a system service": ("0::/system.slice/ssh.service\n", []),
    "a login session": (v1("/user.slice/user-1000.slice/session-3.scope"), []),
    "32 digits are no container": ("4:memory:/process_api/44658ce6e19c59d2f0a92d2ef0547313\n0::/\n", []),
    "63 digits are no container": (f"0::/docker/{A[:-1]}\n", []),
    "65 digits are no container": (f"0::/docker/{A}0\n", []),
    "capital digits are no container": (f"0::/docker/{A.upper()}\n", []),
    "digits glued to other text are no container": (f"0::/docker/x{A}\n", []),
    "an id with another suffix is no container": (f"0::/docker/{A}.service\n", []),
    "an id on some lines only": (f"2:cpu:/docker/{A}\n1:name=systemd:/\n0::/\n", [A]),
    "the same id twice on one line": (f"0::/docker/{A}/docker/{A}\n", [A]),
    "outer ids agree, only one line is nested": (f"2:cpu:/docker/{A}\n0::/docker/{A}/docker/{B}\n", [A, B]),
    "a colon in the path": (f"0::/a:b/{A}\n", [A]),
    "a carriage return in a name starts no line": (f"0::/docker\r0::/{B}/x\n", [B]),
}


@pytest.mark.parametrize(("text", "ids"), CORPUS.values(), ids=CORPUS.keys())
def test_the_ids_of_real_lines_are_found_outermost_first(text: str, ids: list[str]) -> None:
    assert [each.id for each in container_cgroups(parse_cgroup(text.encode()))] == ids


def test_two_lines_with_different_ids_name_no_container() -> None:
    text = f"2:cpu:/docker/{A}\n0::/docker/{B}\n"
    with pytest.raises(CgroupInvalid) as refusal:
        container_cgroups(parse_cgroup(text.encode()))
    assert refusal.value.code == "cgroup_ambiguous"


def test_inner_ids_that_differ_between_lines_name_no_container() -> None:
    text = f"2:cpu:/docker/{A}/docker/{'1' * 64}\n0::/docker/{A}/docker/{B}\n"
    with pytest.raises(CgroupInvalid) as refusal:
        container_cgroups(parse_cgroup(text.encode()))
    assert refusal.value.code == "cgroup_ambiguous"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"0::\n",
        b"0:/x\n",
        b"::/x\n",
        b"x::/x\n",
        b"0::relative\n",
        b"0::/a\n\n",
        b"0::/a\n0::/b\n",
        b"-1::/a\n",
        b"\xc2\xb2::/a\n",
        b"0::/docker/x (deleted)\n",
    ],
)
def test_malformed_text_is_refused_whole(text: bytes) -> None:
    with pytest.raises(CgroupInvalid) as refusal:
        parse_cgroup(text)
    assert refusal.value.code == "cgroup_invalid"


def test_a_cgroup_made_inside_a_container_is_not_the_container_it_is_named_after() -> None:
    real = container_cgroups(parse_cgroup(f"0::/docker/{B}\n".encode()))[0]
    nested = container_cgroups(parse_cgroup(f"0::/docker/{A}/{B}\n".encode()))
    assert [each.id for each in nested] == [A, B]
    assert not nested[1].holds(parse_cgroup(f"0::/docker/{B}\n".encode()))
    assert not real.holds(parse_cgroup(f"0::/docker/{A}/{B}\n".encode()))


def test_a_process_below_the_containers_cgroup_is_in_it() -> None:
    container = container_cgroups(parse_cgroup(f"0::/docker/{A}\n".encode()))[0]
    assert container.holds(parse_cgroup(f"0::/docker/{A}/init\n".encode()))
    assert container.holds(parse_cgroup(f"0::/docker/{A}\n".encode()))
    assert not container.holds(parse_cgroup(f"0::/docker/{A}x\n".encode()))
    assert not container.holds(parse_cgroup(f"1:cpu:/docker/{A}\n".encode()))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (v1("/docker/x", "/unified"), "/unified"),
        ("2:name=systemd:/system.slice/a.service\n1:cpu:/c\n0::/\n", "/system.slice/a.service"),
        ("2:name=systemd:/\n1:cpu:/c\n0::/\n", "/c"),
        ("2:name=systemd:/\n1:cpu:/\n0::/\n", "/"),
    ],
)
def test_the_main_path_is_the_unified_one_else_systemds_else_any(text: str, path: str) -> None:
    assert main_path(parse_cgroup(text.encode())) == path


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/crm-connector.service", "crm-connector.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/system.slice/web.service/child.service", "web.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/fake.service", "user@1000.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/system.slice/_escaped.service", "escaped.service"),
        ("/docker/x.service", None),
        ("/system.slice/", None),
        ("/", None),
        ("/system.slice/new\nline.service", None),
    ],
)
def test_the_unit_is_the_outermost_one_that_systemd_made(path: str, unit: str | None) -> None:
    assert systemd_unit((Cgroup("", path),)) == unit
    assert systemd_unit((Cgroup("name=systemd", path), Cgroup("", "/"))) == unit
