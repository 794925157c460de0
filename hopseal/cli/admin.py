"""Asking a daemon on its admin socket.

Owns: the HTTP exchange and which of our errors it becomes. Does not own: what the answers mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from hopseal.errors import DeniedError, HopsealError, InvalidError, UnavailableError

TIMEOUT_S = 10.0  # measuring a large executable takes a while

_FAMILIES: dict[int, type[HopsealError]] = {403: DeniedError, 409: DeniedError, 502: UnavailableError}


class AdminClient:
    """A daemon's admin socket.

    Args:
        daemon: ``attestor`` or ``broker``, for messages.
        socket: path of its admin socket.
    """

    def __init__(self, daemon: str, socket: Path) -> None:
        self._daemon = daemon
        self._socket = socket
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://localhost", timeout=TIMEOUT_S
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, parameters: Mapping[str, str | int | list[str]] | None = None) -> dict[str, Any]:
        """The JSON object at ``path``.

        Raises:
            UnavailableError: no daemon answers there, or it cannot answer now.
            InvalidError: it knows nothing of what was asked.
            DeniedError: it refuses, or the socket is not for this user.
        """
        return self._ask("GET", path, parameters)

    def post(self, path: str) -> dict[str, Any]:
        """The JSON object that ``path`` answers; raises like :meth:`get`."""
        return self._ask("POST", path, None)

    def _ask(self, method: str, path: str, parameters: Mapping[str, str | int | list[str]] | None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, params=parameters)
            answer = response.json()
        except httpx.ConnectError as error:
            raise self._unreachable(error) from error
        except (httpx.HTTPError, ValueError) as error:
            raise UnavailableError(
                f"{self._daemon}_answer_invalid",
                f"the {self._daemon} at {self._socket} did not answer in time or not in JSON",
                detail=str(error),
                remedy=f"hopseal logs, or restart the {self._daemon}",
            ) from error
        if not isinstance(answer, dict):
            raise UnavailableError(f"{self._daemon}_answer_invalid", f"the {self._daemon} answered no JSON object")
        if response.is_success:
            return answer
        raise self._refusal(response.status_code, answer)

    def _refusal(self, status: int, answer: dict[str, Any]) -> HopsealError:
        family = _FAMILIES.get(
            status, UnavailableError if status >= httpx.codes.INTERNAL_SERVER_ERROR else InvalidError
        )
        return family(
            str(answer.get("code", f"{self._daemon}_refused")),
            str(answer.get("message", f"the {self._daemon} answered {status}")),
            detail=str(answer.get("detail") or ""),
            remedy=str(answer.get("remedy") or ""),
        )

    def _unreachable(self, error: httpx.ConnectError) -> HopsealError:
        cause = _root_cause(error)
        if isinstance(cause, PermissionError):
            return DeniedError(
                "admin_socket_forbidden",
                f"this user may not use {self._socket}",
                remedy="run it as root, or as a member of the socket's group",
            )
        return UnavailableError(
            f"{self._daemon}_unreachable",
            f"no {self._daemon} answers on {self._socket}",
            remedy=f"start it (hopseal up, or hopseal {self._daemon} run), or name its socket with "
            f"--{self._daemon}-socket",
        )


def _root_cause(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
