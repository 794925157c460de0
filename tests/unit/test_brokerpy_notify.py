"""What the service manager is told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from broker.notify import notify_service_manager


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}])
def test_without_a_service_manager_nobody_is_told(environ: dict[str, str]) -> None:
    assert not notify_service_manager("READY=1", environ)


def test_the_service_manager_is_told_at_its_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        assert notify_service_manager("MAINPID=7\nREADY=1", {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(100) == b"MAINPID=7\nREADY=1"


def test_an_abstract_socket_is_a_name_behind_an_at_sign() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0hopseal-test-notify")
        assert notify_service_manager("STOPPING=1", {"NOTIFY_SOCKET": "@hopseal-test-notify"})
        assert manager.recv(100) == b"STOPPING=1"


def test_a_service_manager_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    assert not notify_service_manager("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
