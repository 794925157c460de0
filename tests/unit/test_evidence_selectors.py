"""Which selectors a measurement supports, and how its instance is called."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestor.facts import (
    ConfigFacts,
    ContainerFacts,
    Evidence,
    ExeIdentity,
    HostConfig,
    PostureFacts,
    ProcessFacts,
    Unreadable,
)
from attestor.selectors import instance_of, measured_selectors
from hopseal.errors import DeniedError
from hopseal.selectors import Posture

EXE = "sha256:" + "0e" * 32
CONFIG = "sha256:" + "c0" * 32
IMAGE = "sha256:" + "1a" * 32
MANIFEST = "sha256:" + "2b" * 32
ID = "3c" * 32
NOTHING = Unreadable("x_unreadable", "detail")
PROCESS = ProcessFacts(
    pid=7,
    uid=1204,
    gids=(1204, 27),
    exe=ExeIdentity(1, 2),
    exe_sha256=EXE,
    exe_path="/usr/bin/x",
    exe_deleted=False,
    namespaces={},
    ppid=1,
    start_ticks=5,
    cgroup="/system.slice/crm.service",
    unit="crm.service",
)
CONTAINER = ContainerFacts(
    id=ID,
    engine="docker",
    name="crm",
    pid=7,
    image_id=IMAGE,
    image_digests=frozenset({IMAGE, MANIFEST}),
    labels={"team": "sales"},
    host=HostConfig(
        privileged=False, security_opt=(), devices=(), sysctls={}, masked_paths=None, host_ports=(), mounts=()
    ),
)
FULL = Evidence(
    process=PROCESS,
    container=CONTAINER,
    config={("/etc/agent",): ConfigFacts(CONFIG, ())},
    posture=PostureFacts(Posture.BASELINE, ()),
    measured_at=0.0,
)


def values(evidence: Evidence) -> set[str]:
    return {selector.value for selector in measured_selectors(evidence)}


def test_everything_measured_becomes_a_selector_and_nothing_else_does() -> None:
    assert values(FULL) == {
        "uid:1204",
        "gid:1204",
        "gid:27",
        "unit:crm.service",
        "unit:/system.slice/crm.service",
        f"exe:{EXE}",
        f"config:{CONFIG}",
        f"image:{IMAGE}",
        f"image:{MANIFEST}",
        "engine:docker",
        "container-label:team=sales",
        "posture:baseline",
        "posture:privileged",
    }


@pytest.mark.parametrize(
    ("evidence", "lost"),
    [
        (replace(FULL, process=NOTHING), ("uid:", "gid:", "unit:", "exe:")),
        (replace(FULL, process=replace(PROCESS, exe_sha256=NOTHING)), ("exe:",)),
        (replace(FULL, container=NOTHING), ("image:", "engine:", "container-label:")),
        (replace(FULL, container=replace(CONTAINER, image_digests=NOTHING)), ("image:",)),
        (replace(FULL, config={("/etc/agent",): NOTHING}), ("config:",)),
        (replace(FULL, posture=NOTHING), ("posture:",)),
    ],
)
def test_an_unreadable_item_grants_nothing(evidence: Evidence, lost: tuple[str, ...]) -> None:
    assert values(evidence) == {value for value in values(FULL) if not value.startswith(lost)}


def test_outside_containers_the_engine_is_none_and_the_cgroup_names_the_instance() -> None:
    plain = replace(FULL, container=None)
    assert "engine:none" in values(plain)
    assert instance_of(plain) == "cgroup:/system.slice/crm.service"


def test_a_container_is_its_own_instance_whatever_its_cgroup() -> None:
    assert instance_of(FULL) == f"docker:{ID}"
    assert instance_of(replace(FULL, process=NOTHING)) == f"docker:{ID}"


@pytest.mark.parametrize("evidence", [replace(FULL, container=NOTHING), replace(FULL, container=None, process=NOTHING)])
def test_an_instance_that_cannot_be_named_is_refused(evidence: Evidence) -> None:
    with pytest.raises(DeniedError) as refusal:
        instance_of(evidence)
    assert refusal.value.code == "evidence_unreadable"
