"""Whatever bytes arrive, a parser returns a value or raises its own error."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from attestor.collectors.cgroup import CgroupInvalid, container_cgroups, main_path, parse_cgroup, systemd_unit
from attestor.collectors.config import config_root
from attestor.collectors.mounts import parse_mountinfo
from attestor.config_watch import parse_events
from attestor.engine.errors import ContainerUnknown, EngineInvalid
from attestor.engine.events import parse_event
from attestor.engine.inspect import is_container_id, parse_container, parse_image, parse_list
from attestor.listeners import parse_unix_diag
from attestor.proc_text import ProcTextInvalid, parse_start_ticks, parse_status
from attestor.sock_diag import ListenersUnreadable
from attestor.tcp_listeners import parse_inet_diag
from hopseal.running.family import parse_reply

ID = "ab" * 32
HEX = st.text("0123456789abcdef", min_size=63, max_size=65)
COMPONENT = st.one_of(
    HEX,
    st.builds("{}-{}.scope".format, st.sampled_from(["docker", "libpod", "libpod-conmon", "crio"]), HEX),
    st.text(min_size=1, max_size=8),
)
PATH = st.lists(COMPONENT, max_size=5).map(lambda parts: "/" + "/".join(parts))
LINE = st.builds("{}:{}:{}".format, st.integers(0, 12), st.sampled_from(["", "cpu", "name=systemd"]), PATH)
CGROUP = st.one_of(st.binary(max_size=300), st.lists(LINE, max_size=4).map("\n".join).map(str.encode))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(ID) | st.just("sha256:" + ID),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Id", "Name", "Image", "State", "Running", "Pid", "Config", "HostConfig", "RepoDigests"])
            | st.text(max_size=4),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(CGROUP)
def test_cgroup_text_is_parsed_or_refused_and_ids_are_always_full(text: bytes) -> None:
    with contextlib.suppress(CgroupInvalid):
        lines = parse_cgroup(text)
        assert main_path(lines).startswith("/")
        unit = systemd_unit(lines)
        assert unit is None or ("/" not in unit and "\n" not in unit)
        for container in container_cgroups(lines):
            assert is_container_id(container.id)
            assert container.roots
            assert container.holds(lines)


@given(st.binary(max_size=300), st.integers(0, 1 << 62))
def test_no_program_name_changes_the_start_time(name: bytes, ticks: int) -> None:
    fields = b" S " + b" ".join([b"1"] * 18) + b" %d 2 3" % ticks
    assert parse_start_ticks(b"7 (" + name + b")" + fields) == ticks


@given(st.binary(max_size=300))
def test_kernel_text_is_parsed_or_refused(text: bytes) -> None:
    for parse in (parse_start_ticks, parse_status, parse_mountinfo):
        with contextlib.suppress(ProcTextInvalid):
            parse(text)


@given(st.text(st.characters(exclude_characters="\n\\", codec="utf-8"), max_size=15))
def test_no_program_name_adds_a_status_field(name: str) -> None:
    assert set(parse_status(f"Name:\t{name}\nUid:\t1\n".encode())) == {"Name", "Uid"}


@given(JSON)
def test_engine_answers_are_parsed_or_refused(answer: object) -> None:
    for parse in (
        lambda value: parse_container(value, ID, "docker"),
        lambda value: parse_image(value, "sha256:" + ID),
        parse_list,
    ):
        with contextlib.suppress(EngineInvalid, ContainerUnknown):
            parse(answer)


@given(st.binary(max_size=200))
def test_event_lines_are_parsed_or_refused(line: bytes) -> None:
    with contextlib.suppress(EngineInvalid):
        parse_event(line)


@given(st.lists(st.tuples(st.integers(0, 1 << 32), st.integers(0, 40), st.binary(max_size=60)), max_size=4))
def test_netlink_replies_are_parsed_or_refused(messages: list[tuple[int, int, bytes]]) -> None:
    reply = b"".join(struct.pack("=IHHII", length & 0xFF, kind, 2, 1, 1) + body for length, kind, body in messages)
    for parse in (parse_unix_diag, parse_inet_diag):
        with contextlib.suppress(ListenersUnreadable):
            parse(reply)
    with contextlib.suppress(OSError):
        parse_reply(reply)


@given(st.binary(min_size=60, max_size=84), st.sampled_from([2, 3, 20]), st.integers(-4, 4))
def test_netlink_replies_about_tcp_are_parsed_or_refused(body: bytes, kind: int, more: int) -> None:
    reply = struct.pack("=IHHII", 16 + len(body) + more, kind, 0, 1, 1) + body
    with contextlib.suppress(ListenersUnreadable):
        sockets, _last = parse_inet_diag(reply)
        assert all(0 <= each.local[1] < 1 << 16 for each in sockets)
    with contextlib.suppress(OSError):
        parse_reply(reply)


@given(st.binary(max_size=100))
def test_inotify_reads_never_fail(data: bytes) -> None:
    parse_events(data)


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=5),
        st.binary(min_size=32, max_size=32),
        max_size=9,
    )
)
def test_the_root_does_not_depend_on_order_and_names_every_file(files: dict[str, bytes]) -> None:
    declared = {f"/f{name}": f"sha256:{digest.hex()}" for name, digest in files.items()}
    root = config_root(declared)
    assert root == config_root(dict(reversed(declared.items())))
    for path in declared:
        assert config_root({each: digest for each, digest in declared.items() if each != path}) != root
