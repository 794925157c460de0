"""Kernel text that a process can influence by its own name, and netlink and mount tables."""

from __future__ import annotations

import struct

import pytest

from attestor.collectors.mounts import MountEntry, host_path, is_within, parse_mountinfo
from attestor.config_watch import parse_events
from attestor.listeners import parse_unix_diag
from attestor.proc_text import ProcTextInvalid, parse_ids, parse_start_ticks, parse_status
from attestor.sock_diag import ListenersUnreadable

TAIL = b" S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21"


@pytest.mark.parametrize(
    "name",
    [b"python3", b"a b", b") R 1\n(", b")", b"((", b") S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 99 0", b"", b"\xff\x00\n"],
)
def test_the_start_time_is_read_after_the_last_parenthesis_whatever_the_program_is_called(name: bytes) -> None:
    assert parse_start_ticks(b"12 (" + name + b")" + TAIL) == 4711


@pytest.mark.parametrize("text", [b"", b"12 (x", b"12 (x)", b"12 (x) S 1 2 3", b"1 (x)" + TAIL.replace(b"4711", b"-1")])
def test_a_stat_line_without_a_start_time_is_refused(text: bytes) -> None:
    with pytest.raises(ProcTextInvalid):
        parse_start_ticks(text)


@pytest.mark.parametrize("separator", ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028"])
def test_a_program_name_forges_no_status_field(separator: str) -> None:
    text = f"Name:\ta{separator}Uid:\t0\t0\t0\t0\nUid:\t7\t7\t7\t7\n".encode()
    assert parse_ids(parse_status(text), "Uid") == (7, 7, 7, 7)


def test_the_first_of_two_equal_status_fields_counts() -> None:
    assert parse_status(b"Uid:\t1\nUid:\t2\n")["Uid"] == "1"


@pytest.mark.parametrize("text", [b"", b"no colon\n", b"A:\t1\n\nB:\t2\n"])
def test_a_status_line_without_a_name_is_refused(text: bytes) -> None:
    with pytest.raises(ProcTextInvalid):
        parse_status(text)


@pytest.mark.parametrize("value", ["", "1 2 3", "1 2 3 4 5", "-1 1 1 1", "1 2 3 x", "\u0661 1 1 1"])
def test_ids_are_four_ascii_numbers_or_refused(value: str) -> None:
    with pytest.raises(ProcTextInvalid):
        parse_ids({"Uid": value}, "Uid")


def entry(
    device: str = "254:0", root: str = "/", point: str = "/", kind: str = "ext4", *, ro: bool = False
) -> MountEntry:
    return MountEntry(device, root, point, kind, ro)


def test_mount_points_are_unescaped_and_options_read() -> None:
    text = b"36 35 98:0 /mnt\\0401 /a\\040b\\011c\\012d\\134e ro,noatime master:1 - ext3 /dev/root rw\n"
    assert parse_mountinfo(text) == (entry("98:0", "/mnt 1", "/a b\tc\nd\\e", "ext3", ro=True),)


def test_a_forged_separator_inside_a_mount_point_cannot_occur_because_spaces_are_escaped() -> None:
    text = b"36 35 98:0 / /a\\040-\\040proc rw - tmpfs none rw\n"
    assert parse_mountinfo(text)[0].filesystem == "tmpfs"


@pytest.mark.parametrize(
    "text", [b"garbage\n", b"1 2 3:4 / / rw shared:1 ext4\n", b"1 2 3:4 / - ext4 x rw\n", b"1 2 3:4 / / rw - \n"]
)
def test_a_malformed_mount_line_is_refused(text: bytes) -> None:
    with pytest.raises(ProcTextInvalid):
        parse_mountinfo(text)


@pytest.mark.parametrize(
    ("mounted", "host", "path"),
    [
        (entry(root="/etc/agent"), [entry()], "/etc/agent"),
        (entry(root="/etc/agent"), [entry("1:1")], None),
        (entry("0:20", root="/docker.sock"), [entry(), entry("0:20", point="/run")], "/run/docker.sock"),
        (entry(root="/home/me/x"), [entry(), entry(root="/home/me", point="/me")], "/me/x"),
        (entry(root="/home"), [entry(root="/home/me", point="/me")], None),
        (entry(root="/"), [entry()], "/"),
        (entry("0:9", root="/"), [entry("0:9", point="/sys")], "/sys"),
    ],
)
def test_a_mount_is_named_as_the_host_sees_it(mounted: MountEntry, host: list[MountEntry], path: str | None) -> None:
    assert host_path(mounted, tuple(host)) == path


def test_a_sibling_with_a_common_prefix_is_not_within() -> None:
    assert is_within("/etc/x", "/etc")
    assert is_within("/etc", "/etc")
    assert is_within("/etc", "/")
    assert not is_within("/etcetera", "/etc")


def diag_message(inode: int, *, state: int = 10, file: tuple[int, int] | None = (5, 6)) -> bytes:
    body = struct.pack("=BBBBIII", 1, 1, state, 0, inode, 0, 0)
    if file is not None:
        body += struct.pack("=HHII", 12, 1, *file)
    return struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 1) + body


DONE = struct.pack("=IHHII", 20, 3, 2, 1, 1) + b"\0\0\0\0"


def test_listening_sockets_bound_to_files_are_taken_from_a_diag_reply() -> None:
    reply = diag_message(7) + diag_message(8, state=1) + diag_message(9, file=None)
    assert parse_unix_diag(reply) == ([(7, 5, 6)], False)
    assert parse_unix_diag(reply + DONE) == ([(7, 5, 6)], True)


@pytest.mark.parametrize(
    "reply",
    [
        struct.pack("=IHHIIi", 20, 2, 0, 1, 1, -2),
        struct.pack("=IHHII", 16, 2, 0, 1, 1),
        struct.pack("=IHHII", 8, 20, 0, 1, 1),
        diag_message(7)[:-1],
        struct.pack("=IHHIII", 20, 20, 0, 1, 1, 1),
        struct.pack("=IHHII", 36, 20, 0, 1, 1) + struct.pack("=BBBBIIIHH", 1, 1, 10, 0, 1, 0, 0, 2, 1),
    ],
)
def test_a_malformed_or_refusing_diag_reply_is_an_error(reply: bytes) -> None:
    with pytest.raises(ListenersUnreadable):
        parse_unix_diag(reply)


def test_inotify_events_are_split_with_their_names() -> None:
    data = struct.pack("=iIII", 3, 0x100, 0, 16) + b"name".ljust(16, b"\0") + struct.pack("=iIII", 4, 2, 0, 0)
    assert parse_events(data) == [(3, 0x100, b"name"), (4, 2, b"")]
