"""What a component asks its own broker, under the host ``hopseal.local`` of the call socket.

Owns: one blocking exchange, and errors of one kind. Does not own: what is asked (``tasks``, ``context``).
Source: runtime.md "Tasks".
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path

from hopseal.errors import UnavailableError
from hopseal.sdk.client import out_socket
from hopseal.sdk.handle import HANDLE_HEADER
from hopseal.sdk.refusals import CallRefusedError, read_refusal
from hopseal.unix_http import HttpAnswer, exchange

BROKER_HOST = "hopseal.local"
TIMEOUT_S = 10.0


def ask(
    method: str,
    target: str,
    *,
    handle: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, object] | None = None,
) -> HttpAnswer:
    """The broker's answer; blocks, so call it from a thread in an event loop.

    Raises:
        CallRefusedError: the broker said no.
        UnavailableError: nobody answers on the call socket (code ``broker_unreachable``), or not understandably.
    """
    fields = {"host": BROKER_HOST, **(headers or {})}
    if handle is not None:
        fields[HANDLE_HEADER] = handle
    content = None
    if body is not None:
        fields["content-type"] = "application/json"
        content = json.dumps(body).encode()
    path = Path(out_socket())
    try:
        answer = exchange(path, method, target, headers=fields, body=content, timeout_s=TIMEOUT_S)
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(
            "broker_unreachable",
            f"no broker answers on {path}",
            detail=f"{type(error).__name__} {error}",
            remedy="start it (hopseal up, or hopseal broker run), or name its socket in HOPSEAL_OUT_SOCKET",
        ) from error
    if not answer.is_success:
        raise _refusal(answer)
    return answer


def read_object(answer: HttpAnswer) -> Mapping[str, object]:
    """The JSON object in an answer.

    Raises:
        UnavailableError: it is none (code ``broker_answer_invalid``): a broker of another version, or no broker.
    """
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnavailableError("broker_answer_invalid", "the broker's answer cannot be understood")
    return found


def _refusal(answer: HttpAnswer) -> CallRefusedError | UnavailableError:
    refusal = read_refusal(answer.status, answer.header("content-type"), answer.body)
    return refusal or UnavailableError("broker_answer_invalid", f"the broker answered with {answer.status}")
