"""What the service manager is told: that the broker serves, and which process it is after a planned restart.

Source: sd_notify(3).
"""

from __future__ import annotations

import os
import socket

import structlog

log = structlog.get_logger("broker.notify")


def notify_service_manager(state: str, environ: dict[str, str] | None = None) -> bool:
    """Send ``state`` (``READY=1``); whether there is a service manager that wants to know."""
    path = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            log.warning("service_manager_not_told", reason=str(error))
            return False
    return True
