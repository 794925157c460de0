"""Asking a daemon on its admin socket.

Owns: which of our errors an answer becomes. Does not own: what the answers mean.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from hopseal.errors import DeniedError, HopsealError, InvalidError, UnavailableError
from hopseal.unix_http import HttpAnswer, exchange

TIMEOUT_S = 10.0  # measuring a large executable takes a while

_FAMILIES: dict[int, type[HopsealError]] = {403: DeniedError, 409: DeniedError}
_SERVER_ERROR = 500


class AdminClient:
    """A daemon's admin socket.

    Args:
        daemon: ``attestor`` or ``broker``, for messages.
        socket: path of its admin socket.
    """

    def __init__(self, daemon: str, socket: Path) -> None:
        self._daemon = daemon
        self._socket = socket

    def get(self, path: str, parameters: Mapping[str, str | int | list[str]] | None = None) -> dict[str, Any]:
        """The JSON object at ``path``.

        Raises:
            UnavailableError: no daemon answers there, or it cannot answer now.
            InvalidError: it knows nothing of what was asked.
            DeniedError: it refuses, or the socket is not for this user.
        """
        query = f"?{urlencode(parameters, doseq=True)}" if parameters else ""
        return self._ask("GET", quote(path) + query)

    def post(self, path: str) -> dict[str, Any]:
        """The JSON object that ``path`` answers; raises like :meth:`get`."""
        return self._ask("POST", quote(path))

    def _ask(self, method: str, target: str) -> dict[str, Any]:
        try:
            response = exchange(self._socket, method, target, timeout_s=TIMEOUT_S)
            answer = json.loads(response.body)
        except PermissionError as error:
            raise DeniedError(
                "admin_socket_forbidden",
                f"this user may not use {self._socket}",
                remedy="run it as root, or as a member of the socket's group",
            ) from error
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            raise self._unreachable() from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnavailableError(
                f"{self._daemon}_answer_invalid",
                f"the {self._daemon} at {self._socket} did not answer in time or not in JSON",
                detail=f"{type(error).__name__}: {error}",
                remedy=f"read its log, or restart the {self._daemon}",
            ) from error
        if not isinstance(answer, dict):
            raise UnavailableError(f"{self._daemon}_answer_invalid", f"the {self._daemon} answered no JSON object")
        if response.is_success:
            return answer
        raise self._refusal(response, answer)

    def _refusal(self, response: HttpAnswer, answer: dict[str, Any]) -> HopsealError:
        if answer.get("code") == "peer_gone":
            # The attestor says this of a caller; an operator has named the process by its pid.
            detail = str(answer.get("detail") or "")
            return InvalidError(
                "pid_unknown", "no such process runs here", detail=detail, remedy="check the pid with ps"
            )
        default = UnavailableError if response.status >= _SERVER_ERROR else InvalidError
        return _FAMILIES.get(response.status, default)(
            str(answer.get("code", f"{self._daemon}_refused")),
            str(answer.get("message", f"the {self._daemon} answered {response.status}")),
            detail=str(answer.get("detail") or ""),
            remedy=str(answer.get("remedy") or ""),
        )

    def _unreachable(self) -> UnavailableError:
        return UnavailableError(
            f"{self._daemon}_unreachable",
            f"no {self._daemon} answers on {self._socket}",
            remedy=f"start it (hopseal up, or hopseal {self._daemon} run), or name its socket with "
            f"--{self._daemon}-socket",
        )
