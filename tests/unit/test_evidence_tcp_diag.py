"""Replies of the kernel's socket diagnosis about TCP: read whole, or refused."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from attestor.sock_diag import ListenersUnreadable
from attestor.tcp_listeners import DiagSocket, parse_inet_diag

DONE, ERROR, SOCK_DIAG = 3, 2, 20
IPV4, IPV6 = 2, 10


def message(kind: int, body: bytes) -> bytes:
    header = struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0)
    return header + body + b"\0" * (-len(body) % 4)


def described(family: int, src: bytes, port: int, *, state: int = 10, inode: int = 7) -> bytes:
    head = struct.pack("=BBBB", family, state, 0, 0)
    ports = port.to_bytes(2) + (443).to_bytes(2)
    addresses = src.ljust(16, b"\0") + bytes(16)
    return head + ports + addresses + bytes(12) + struct.pack("=IIIII", 0, 0, 0, 1000, inode)


def test_sockets_of_both_families_are_read() -> None:
    mapped = bytes(10) + b"\xff\xff\x7f\0\0\x01"
    reply = b"".join(
        message(SOCK_DIAG, each)
        for each in (
            described(IPV4, b"\x7f\0\0\x01", 8080),
            described(IPV6, b"\0" * 15 + b"\x01", 8081),
            described(IPV6, mapped, 8082, state=1, inode=0),
        )
    )
    sockets, last = parse_inet_diag(reply)
    assert not last
    assert [each.local for each in sockets] == [
        (ipaddress.IPv4Address("127.0.0.1"), 8080),
        (ipaddress.IPv6Address("::1"), 8081),
        (ipaddress.IPv4Address("127.0.0.1"), 8082),
    ]
    assert [(each.state, each.inode) for each in sockets] == [(10, 7), (10, 7), (1, 0)]
    assert sockets[1] == DiagSocket(10, sockets[1].local, (ipaddress.IPv6Address("::"), 443), 7)


def test_the_end_is_told() -> None:
    assert parse_inet_diag(message(DONE, bytes(4))) == ([], True)


def test_a_refusal_of_the_kernel_is_told() -> None:
    with pytest.raises(ListenersUnreadable) as caught:
        parse_inet_diag(message(ERROR, struct.pack("=i", -1)))
    assert "not permitted" in caught.value.detail


@pytest.mark.parametrize("cut", range(17, 88))
def test_a_message_that_is_cut_off_is_refused(cut: int) -> None:
    whole = message(SOCK_DIAG, described(IPV4, b"\x7f\0\0\x01", 8080))
    with pytest.raises(ListenersUnreadable):
        parse_inet_diag(whole[:cut])


def test_a_length_that_lies_is_refused() -> None:
    for length in (0, 15, 10_000):
        with pytest.raises(ListenersUnreadable):
            parse_inet_diag(struct.pack("=IHHII", length, SOCK_DIAG, 0, 0, 0) + bytes(72))
