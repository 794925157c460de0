"""``hopseal call``: one brokered call from a shell, which is a component like any other."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import click

from hopseal.cli.document_draft import draft_caller
from hopseal.cli.lazy import EXIT_NO, EXIT_UNAVAILABLE
from hopseal.cli.options import out_socket_option
from hopseal.cli.output import json_option, print_json
from hopseal.errors import DeniedError, InvalidError, UnavailableError
from hopseal.sdk.handle import HANDLE_HEADER
from hopseal.sdk.refusals import REMEDIES
from hopseal.unix_http import PROBLEM_TYPE, HttpAnswer, exchange

_UNAVAILABLE = 503
_DECISION = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_METHOD = re.compile(r"[A-Za-z]{1,32}", re.ASCII)
_NEEDS_DOCUMENT = frozenset({"identity_none", "may_not_start", "policy_denied"})


@click.command()
@click.argument("url")
@click.option("-X", "--request", "method", help="HTTP method; default GET, or POST with -d.")
@click.option(
    "-d", "--data", help="Request body, or @FILE, or @- for standard input; sent as JSON unless -H says else."
)
@click.option("-H", "--header", "headers", multiple=True, help="'Name: value'; may be given several times.")
@click.option("--task", "handle", help="Custody-Handle of the task that this call belongs to; without it, a new task.")
@click.option("-i", "--include", is_flag=True, help="Print status and headers before the body.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 3600), default=60.0, show_default=True)
@json_option
@out_socket_option
@click.pass_context
def call(
    context: click.Context,
    /,
    url: str,
    *,
    method: str | None,
    data: str | None,
    headers: tuple[str, ...],
    handle: str | None,
    timeout_s: float,
    out_socket: Path,
    include: bool,
    as_json: bool,
) -> None:
    """Call URL (http://COMPONENT.AGENT/path) through this node's broker.

    It acts as the calling process: refused unless a document describes it. Prints the answer's body;
    the handle of the task, for further calls, goes to standard error. Exits 1 when refused or not
    answered with success.

    \b
    Example:
      hopseal call http://reasoner.crm-assistant/v1/chat/completions -d '{"model": "rules", "messages": []}'
      hopseal call http://orchestrator.crm-assistant/task -d @task.json --task HANDLE
    """
    body = _read_body(data)
    fields = _header_fields(headers, body, handle)
    method = method or ("GET" if body is None else "POST")
    response = _send(out_socket, method, url, fields, body, timeout_s)
    if as_json:
        print_json(_as_json(response))
    else:
        _print(response, include=include)
    if response.header("content-type") == PROBLEM_TYPE:
        _explain_refusal(response, url, method)
        context.exit(EXIT_UNAVAILABLE if response.status == _UNAVAILABLE else EXIT_NO)
    if not response.is_success:
        context.exit(EXIT_NO)


def _send(
    out_socket: Path, method: str, url: str, headers: dict[str, str], body: bytes | None, timeout_s: float
) -> HttpAnswer:
    host, target = _parse_url(url)
    if _METHOD.fullmatch(method) is None:
        raise InvalidError("method_invalid", f"{method!r} is no HTTP method", remedy="write -X POST")
    try:
        return exchange(out_socket, method, target, headers={"host": host, **headers}, body=body, timeout_s=timeout_s)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise UnavailableError(
            "broker_unreachable",
            f"no broker answers on {out_socket}",
            remedy="start it (hopseal up, or hopseal broker run), or name its socket with --out-socket",
        ) from error
    except PermissionError as error:
        raise DeniedError("out_socket_forbidden", f"this user may not use {out_socket}") from error
    except http.client.InvalidURL as error:
        raise InvalidError("url_invalid", str(error), remedy="percent-encode it") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(
            "call_failed", f"the call was not answered: {type(error).__name__} {error}", remedy="hopseal logs"
        ) from error
    except ValueError as error:
        raise InvalidError("request_invalid", str(error), remedy="check method and headers") from error


def _parse_url(url: str) -> tuple[str, str]:
    """Host and request target."""
    try:
        parts = urlsplit(url)
        is_named = parts.scheme == "http" and bool(parts.hostname) and parts.username is None and url.isascii()
    except ValueError as error:
        raise InvalidError("url_invalid", f"{url!r} is no URL", remedy="write http://COMPONENT.AGENT/path") from error
    if not is_named:
        raise InvalidError(
            "url_invalid",
            f"{url!r} does not name a component",
            remedy="write http://COMPONENT.AGENT/path: the broker adds mutual TLS itself",
        )
    return parts.netloc, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _read_body(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    try:
        with click.open_file(data[1:], "rb") as file:
            found: bytes = file.read()
    except OSError as error:
        raise InvalidError(
            "body_unreadable", f"cannot read {data[1:]}: {error.strerror}", remedy="name a readable file"
        ) from error
    return found


def _header_fields(texts: tuple[str, ...], body: bytes | None, handle: str | None) -> dict[str, str]:
    fields = _parse_headers(texts)
    if body is not None and "content-type" not in fields:
        fields["content-type"] = "application/json"
    if handle:
        fields[HANDLE_HEADER] = handle
    return fields


def _parse_headers(texts: tuple[str, ...]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise InvalidError("header_invalid", f"{text!r} is no header", remedy="write -H 'Name: value'")
        fields[name.strip().lower()] = value.strip()
    return fields


def _as_json(response: HttpAnswer) -> dict[str, object]:
    return {
        "status": response.status,
        "headers": dict(response.headers),
        "body": response.text,
        "handle": response.header(HANDLE_HEADER),
    }


def _print(response: HttpAnswer, *, include: bool) -> None:
    if include:
        click.echo(f"{response.status} {response.reason}")
        for name, value in response.headers:
            click.echo(f"{name}: {value}")
        click.echo()
    click.echo(response.text)
    if handle := response.header(HANDLE_HEADER):
        click.secho(f"handle: {handle}  (--task {handle} continues this task)", dim=True, err=True)


def _explain_refusal(response: HttpAnswer, url: str, method: str) -> None:
    try:
        problem = json.loads(response.body)
        code, decision = str(problem["code"]), problem.get("decision")
    except (ValueError, LookupError, TypeError, AttributeError):
        return
    if isinstance(decision, str) and _DECISION.fullmatch(decision):
        where = "on the callee's node" if code.startswith("custody_") else "on this node"
        click.secho(f"  → `hopseal policy explain {decision}` {where} tells which rule decided", fg="cyan", err=True)
    if remedy := None if code in _NEEDS_DOCUMENT else REMEDIES.get(code):
        click.secho(f"  → {remedy}", fg="cyan", err=True)
    if code in _NEEDS_DOCUMENT:
        click.secho(
            f"  → {code}: `hopseal status` says what this process's component is now\n"
            "  → if it is none, or may not do this, add one like this to an Agent document:",
            fg="cyan",
            err=True,
        )
        click.echo(draft_caller(url, method), err=True)
