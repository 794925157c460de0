"""Every control of the Pod Security Standards that is measured: one case that holds, one that fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attestor.collectors.capabilities import capability_names
from attestor.collectors.controls import Live, decide_posture
from attestor.collectors.mounts import MountEntry
from attestor.collectors.sensitive import is_ordinary, sensitive_reason
from attestor.facts import HostConfig, Mount
from hopseal.selectors import Posture

ID = "8a" * 32
DOCKER_DEFAULT = 0xA80425FB
NET_BIND_SERVICE = 1 << 10
SYS_ADMIN = 1 << 21
HOST = {"net": 1, "pid": 2, "ipc": 3, "uts": 4, "user": 5, "mnt": 6}
OWN = {"net": 11, "pid": 12, "ipc": 13, "uts": 14, "user": 5, "mnt": 16}
HOST_MOUNTS = (
    MountEntry("254:0", "/", "/", "ext4", False),
    MountEntry("0:20", "/", "/run", "tmpfs", False),
    MountEntry("0:22", "/", "/proc", "proc", False),
    MountEntry("0:23", "/", "/sys", "sysfs", False),
    MountEntry("0:6", "/", "/dev", "devtmpfs", False),
)
OWN_MOUNTS = (
    MountEntry("0:39", "/", "/", "overlay", False),
    MountEntry("0:42", "/", "/proc", "proc", False),
    MountEntry("0:42", "/sys", "/proc/sys", "proc", True),
    MountEntry("0:43", "/null", "/proc/keys", "tmpfs", False),
    MountEntry("0:43", "/null", "/proc/kcore", "tmpfs", False),
    MountEntry("0:23", "/", "/sys", "sysfs", True),
    MountEntry("254:0", f"/var/lib/docker/containers/{ID}/hosts", "/etc/hosts", "ext4", False),
    MountEntry("0:20", "/hopseal/agent", "/run/hopseal/agent", "tmpfs", True),
)


def sets(mask: int) -> dict[str, int]:
    return {"effective": mask, "permitted": mask, "inheritable": 0, "bounding": mask, "ambient": 0}


CONFINED = Live(
    capabilities=sets(0),
    seccomp_mode=2,
    no_new_privs=True,
    uids=(1000, 1000, 1000, 1000),
    tracer_pid=0,
    exe_deleted=False,
    cgroup=f"/docker/{ID}",
    namespaces=OWN,
    host_namespaces=HOST,
    mounts=OWN_MOUNTS,
    host_mounts=HOST_MOUNTS,
    apparmor=None,
    selinux=None,
    proc_files=frozenset({"/proc/kcore", "/proc/keys"}),
)
PLAIN_CONTAINER = HostConfig(
    privileged=False,
    security_opt=(),
    devices=(),
    sysctls={},
    masked_paths=None,
    host_ports=(),
    mounts=(Mount("bind", "/run/hopseal/agent", "/run/hopseal/agent"),),
)


def bind(root: str, *, device: str = "254:0", point: str = "/mnt") -> tuple[MountEntry, ...]:
    return (*OWN_MOUNTS, MountEntry(device, root, point, "ext4", False))


def test_a_confined_process_in_a_plain_container_is_restricted() -> None:
    facts = decide_posture(CONFINED, PLAIN_CONTAINER)
    assert (facts.level, facts.failed) == (Posture.RESTRICTED, ())


def test_an_engines_defaults_are_baseline() -> None:
    live = replace(CONFINED, capabilities=sets(DOCKER_DEFAULT), no_new_privs=False, uids=(0, 0, 0, 0))
    assert decide_posture(live, PLAIN_CONTAINER).level is Posture.BASELINE


BREAKS: list[tuple[str, str, Posture, dict[str, Any], dict[str, Any]]] = [
    ("privileged", "Privileged Containers", Posture.BASELINE, {}, {"privileged": True}),
    ("host net", "Host Namespaces", Posture.BASELINE, {"namespaces": OWN | {"net": 1}}, {}),
    ("host pid", "Host Namespaces", Posture.BASELINE, {"namespaces": OWN | {"pid": 2}}, {}),
    ("host ipc", "Host Namespaces", Posture.BASELINE, {"namespaces": OWN | {"ipc": 3}}, {}),
    ("added capability", "Capabilities", Posture.BASELINE, {"capabilities": sets(SYS_ADMIN)}, {}),
    ("bounding capability", "Capabilities", Posture.BASELINE, {"capabilities": sets(0) | {"bounding": SYS_ADMIN}}, {}),
    ("ambient capability", "Capabilities", Posture.BASELINE, {"capabilities": sets(0) | {"ambient": SYS_ADMIN}}, {}),
    ("unknown capability", "Capabilities", Posture.BASELINE, {"capabilities": sets(1 << 60)}, {}),
    ("capabilities not dropped", "Capabilities", Posture.RESTRICTED, {"capabilities": sets(1)}, {}),
    (
        "engine socket",
        "HostPath Volumes",
        Posture.BASELINE,
        {},
        {"mounts": (Mount("bind", "/var/run/docker.sock", "/s"),)},
    ),
    ("engine socket, live", "HostPath Volumes", Posture.BASELINE, {"mounts": bind("/docker.sock", device="0:20")}, {}),
    ("configured socket's folder", "HostPath Volumes", Posture.BASELINE, {"mounts": bind("/srv/engine")}, {}),
    ("host root", "HostPath Volumes", Posture.BASELINE, {"mounts": bind("/")}, {}),
    ("host etc", "HostPath Volumes", Posture.BASELINE, {"mounts": bind("/etc")}, {}),
    ("host shadow", "HostPath Volumes", Posture.BASELINE, {"mounts": bind("/etc/shadow")}, {}),
    ("host devices", "HostPath Volumes", Posture.BASELINE, {"mounts": bind("/", device="0:6", point="/dev")}, {}),
    (
        "host proc",
        "HostPath Volumes",
        Posture.BASELINE,
        {"mounts": (*OWN_MOUNTS, MountEntry("0:22", "/", "/h", "proc", False))},
        {},
    ),
    ("host as root", "HostPath Volumes", Posture.BASELINE, {"mounts": (HOST_MOUNTS[0], *OWN_MOUNTS[1:])}, {}),
    (
        "another container's files",
        "HostPath Volumes",
        Posture.BASELINE,
        {"mounts": bind(f"/var/lib/docker/containers/{ID}/hosts")},
        {},
    ),
    ("device", "HostPath Volumes", Posture.BASELINE, {}, {"devices": ("/dev/kvm",)}),
    ("published port", "Host Ports", Posture.BASELINE, {}, {"host_ports": ("80/tcp",)}),
    ("apparmor off", "AppArmor", Posture.BASELINE, {"apparmor": "unconfined"}, {}),
    ("apparmor told off", "AppArmor", Posture.BASELINE, {}, {"security_opt": ("apparmor=unconfined",)}),
    ("selinux type", "SELinux", Posture.BASELINE, {"selinux": "system_u:system_r:spc_t:s0"}, {}),
    ("selinux nonsense", "SELinux", Posture.BASELINE, {"selinux": ""}, {}),
    ("unmasked file", "/proc Mount Type", Posture.BASELINE, {"mounts": OWN_MOUNTS[:3] + OWN_MOUNTS[4:]}, {}),
    ("writable sysctls", "/proc Mount Type", Posture.BASELINE, {"mounts": OWN_MOUNTS[:2] + OWN_MOUNTS[3:]}, {}),
    ("nothing masked", "/proc Mount Type", Posture.BASELINE, {}, {"masked_paths": ()}),
    ("seccomp told off", "Seccomp", Posture.BASELINE, {}, {"security_opt": ("seccomp=unconfined",)}),
    ("seccomp told off, old form", "Seccomp", Posture.BASELINE, {}, {"security_opt": ("seccomp:unconfined",)}),
    ("seccomp off", "Seccomp", Posture.RESTRICTED, {"seccomp_mode": 0}, {}),
    ("sysctl", "Sysctls", Posture.BASELINE, {}, {"sysctls": {"kernel.msgmax": "1"}}),
    ("escalation", "Privilege Escalation", Posture.RESTRICTED, {"no_new_privs": False}, {}),
    ("root", "Running as Non-root user", Posture.RESTRICTED, {"uids": (0, 0, 0, 0)}, {}),
    ("saved root", "Running as Non-root user", Posture.RESTRICTED, {"uids": (5, 5, 0, 5)}, {}),
    ("tracer", "Tracer Attached", Posture.BASELINE, {"tracer_pid": 9}, {}),
    ("deleted", "Executable Deleted", Posture.RESTRICTED, {"exe_deleted": True}, {}),
]


@pytest.mark.parametrize(
    ("control", "level", "live", "container"), [row[1:] for row in BREAKS], ids=[row[0] for row in BREAKS]
)
def test_each_broken_control_is_named_with_its_level_and_costs_that_level(
    control: str, level: Posture, live: dict[str, Any], container: dict[str, Any]
) -> None:
    facts = decide_posture(
        replace(CONFINED, **live), replace(PLAIN_CONTAINER, **container), ("/srv/engine/docker.sock",)
    )
    assert control in {failed.control for failed in facts.failed if failed.level is level}
    assert facts.level is (Posture.PRIVILEGED if level is Posture.BASELINE else Posture.BASELINE)


@pytest.mark.parametrize(
    ("live", "container"),
    [
        ({"capabilities": sets(NET_BIND_SERVICE)}, {}),
        ({"apparmor": "docker-default (enforce)"}, {}),
        ({"selinux": "system_u:system_r:container_t:s0:c1,c2"}, {}),
        ({}, {"sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"}}),
        ({}, {"security_opt": ("seccomp=/etc/profile.json", "no-new-privileges")}),
        ({}, {"mounts": (Mount("volume", "/var/lib/docker/volumes/x/_data", "/data"),)}),
        ({"mounts": bind("/var/lib/docker/volumes/x/_data", point="/data")}, {}),
        ({"mounts": bind("/etc/agent", point="/etc/agent")}, {}),
        ({"namespaces": OWN | {"uts": 4, "user": 5}}, {}),
    ],
)
def test_what_the_standards_allow_stays_restricted(live: dict[str, Any], container: dict[str, Any]) -> None:
    facts = decide_posture(replace(CONFINED, **live), replace(PLAIN_CONTAINER, **container))
    assert facts.failed == ()


def test_a_plain_process_under_its_own_uid_is_baseline_and_root_on_the_host_is_privileged() -> None:
    plain = replace(
        CONFINED,
        capabilities=sets(0) | {"bounding": (1 << 41) - 1},
        namespaces=HOST,
        seccomp_mode=0,
        no_new_privs=False,
    )
    assert decide_posture(plain, None).level is Posture.BASELINE
    root = replace(plain, capabilities=sets((1 << 41) - 1), uids=(0, 0, 0, 0))
    assert decide_posture(root, None).level is Posture.PRIVILEGED
    assert decide_posture(replace(CONFINED, namespaces=HOST), None).level is Posture.RESTRICTED


def test_capabilities_are_named_and_unknown_ones_numbered() -> None:
    assert capability_names(0) == frozenset()
    assert capability_names(1 | 1 << 40 | 1 << 41) == {"CHOWN", "CHECKPOINT_RESTORE", "41"}


@pytest.mark.parametrize(
    "path", ["/", "/run", "/run/", "/var/run", "/var/run/docker.sock", "/run/docker.sock", "/srv", "/srv/e.sock"]
)
def test_every_way_to_an_engine_socket_is_sensitive(path: str) -> None:
    assert "engine socket" in (sensitive_reason(path, ("/srv/e.sock",)) or "")


@pytest.mark.parametrize(
    "path", ["/etc/agent", "/run/hopseal/agent", "/run/agents/crm", "/data", "/run/docker.sockx", "/etcetera"]
)
def test_ordinary_host_paths_are_not_sensitive(path: str) -> None:
    assert sensitive_reason(path, ("/srv/e.sock",)) is None


def test_a_pods_own_volumes_are_ordinary_and_another_pods_are_not() -> None:
    uid = "0f6ce7a0-3f9c-4a3a-a3ae-9b9e8e0a5c11"
    source = f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~configmap/c"
    assert is_ordinary(source, "/c", f"/kubepods/pod{uid}/{ID}")
    assert is_ordinary(source, "/c", f"/kubepods.slice/kubepods-pod{uid.replace('-', '_')}.slice/x")
    assert not is_ordinary(source, "/c", "/kubepods/pod1/x")
