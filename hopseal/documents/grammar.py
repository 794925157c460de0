"""The texts that Agent documents may hold: names, digests, paths, patterns.

Owns: one parser for each kind of text; each returns the text or raises :class:`GrammarError`,
whose message and remedy are for the document's author. Does not own: where they stand.
"""

from __future__ import annotations

import ipaddress
import re

from hopseal.errors import InvalidError
from hopseal.ids import IdentityError, SpiffeId, TrustDomain

MAX_SOCKET_PATH_BYTES = 107  # sun_path, unix(7), without the terminating zero
MAX_PATH_BYTES = 4095  # PATH_MAX, limits.h, without the terminating zero
MAX_TEXT_CHARS = 1024
MAX_OPERATION_CHARS = 256
MAX_HOST_CHARS = 240  # an origin has 256 bytes at most, custody-wire §12
MAX_PORT = 65_535
HTTPS_PORT = 443

HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")
LABEL_PATTERN = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
DIGEST_PATTERN = r"sha256:[0-9a-f]{64}"
# A cgroup path, or the name of the systemd unit that the process runs in.
UNIT_PATTERN = r"(?:/[^\s\0]{0,1023}|[A-Za-z0-9:_.@\\-]{1,240}\.(?:service|scope|slice|socket))"
HOST_PATTERN = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})(?::[0-9]{1,5})?"
# A host outside, in lower case: exact, or everything below a name; 443 without a port.
EXTERNAL_PATTERN = (
    r"(?:\*\.[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+|[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*)(?::[1-9][0-9]{0,4})?"
)
LISTEN_PREFIX = "unix://"
TCP_PREFIX = "tcp://"
LISTEN_PATTERN = r"^(unix:///|tcp://(127\.0\.0\.1|\[::1\]):[1-9][0-9]{0,4}$)"
# A2A's methods: what version 1.0 calls them, and the name of 0.3 that policy knows both by (A2A 1.0 §9, 0.3.0 §7).
A2A_RENAMED = {
    "SendMessage": "message/send",
    "SendStreamingMessage": "message/stream",
    "GetTask": "tasks/get",
    "ListTasks": "tasks/list",
    "CancelTask": "tasks/cancel",
    "SubscribeToTask": "tasks/resubscribe",
    "CreateTaskPushNotificationConfig": "tasks/pushNotificationConfig/set",
    "GetTaskPushNotificationConfig": "tasks/pushNotificationConfig/get",
    "ListTaskPushNotificationConfigs": "tasks/pushNotificationConfig/list",
    "DeleteTaskPushNotificationConfig": "tasks/pushNotificationConfig/delete",
    "GetExtendedAgentCard": "agent/getAuthenticatedExtendedCard",
}
A2A_METHODS = frozenset(A2A_RENAMED.values())

_LOOPBACK = re.compile(r"tcp://(?P<host>127\.0\.0\.1|\[::1\]):(?P<port>[1-9][0-9]{0,4})", re.ASCII)
_LABEL = re.compile(LABEL_PATTERN, re.ASCII)
_DIGEST = re.compile(DIGEST_PATTERN, re.ASCII)
_UNIT = re.compile(UNIT_PATTERN, re.ASCII)
_EXTERNAL = re.compile(EXTERNAL_PATTERN, re.ASCII)
_HOST = re.compile(HOST_PATTERN, re.ASCII)
_HTTP_OPERATION = re.compile(r"(?P<method>[A-Z]+) (?P<path>/[!-)+-~]*\*?)", re.ASCII)
# Of MCP and A2A alike; `*` ends the method only where nothing follows.
_RPC_OPERATION = re.compile(r"[a-z][a-zA-Z_]*(?:/[a-zA-Z_]+)*(?:/\*|\*)?(?: [!-)+-~]*\*?)?", re.ASCII)


class GrammarError(InvalidError):
    """A text of a document is not of its kind (code ``document_text_malformed``)."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__("document_text_malformed", message, remedy=remedy)


def parse_label(text: str) -> str:
    """A DNS label (RFC 1123 §2.1): what agents and components are called."""
    if _LABEL.fullmatch(text) is None:
        raise GrammarError(
            f"{text!r} is not a DNS label",
            "use 1 to 63 lower-case letters, digits and dashes, with no dash at either end",
        )
    return text


def parse_digest(text: str) -> str:
    """``sha256:`` and 64 lower-case hex digits."""
    if _DIGEST.fullmatch(text) is None:
        raise GrammarError(f"{text!r} is not a digest", "write sha256: and 64 lower-case hex digits")
    return text


def parse_text(text: str) -> str:
    """One bounded line of printable text."""
    if len(text) > MAX_TEXT_CHARS or not text.isprintable() or not text.strip():
        raise GrammarError(
            "must be one line of printable text", f"at most {MAX_TEXT_CHARS} characters, no control characters"
        )
    return text


def parse_path(text: str) -> str:
    """An absolute path in its only spelling: no empty, dot or dot-dot segment, no slash at the end."""
    segments = text.split("/")[1:]
    if not text.startswith("/") or any(segment in {"", ".", ".."} for segment in segments) or not text.isprintable():
        raise GrammarError(
            f"{text!r} is not an absolute path",
            "write it in full, beginning with /, without . or .. or // or a / at the end",
        )
    if len(text.encode()) > MAX_PATH_BYTES:
        raise GrammarError("path is too long", f"use at most {MAX_PATH_BYTES} bytes")
    return text


def parse_listen_address(listen: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int] | None:
    """The loopback address and port in what :func:`parse_listen` returned; None for the path of a Unix socket.

    Raises:
        GrammarError: it is neither.
    """
    if not listen.startswith(TCP_PREFIX):
        return None
    found = _LOOPBACK.fullmatch(listen)
    if found is None or not 0 < int(found["port"]) <= MAX_PORT:
        raise GrammarError(
            f"{listen!r} is not a loopback address and port", "write tcp://127.0.0.1:PORT or tcp://[::1]:PORT"
        )
    return ipaddress.ip_address(found["host"].strip("[]")), int(found["port"])


def parse_listen(text: str) -> str:
    """The path in ``unix:///absolute/path``, or ``tcp://127.0.0.1:PORT`` as it is.

    A TCP address is one of the component's own network namespace; only loopback, where nobody outside reaches it.
    """
    if text.startswith(TCP_PREFIX):
        parse_listen_address(text)
        return text
    if not text.startswith(LISTEN_PREFIX + "/"):
        raise GrammarError(
            f"{text!r} is neither a Unix socket nor a loopback address",
            "write unix:///absolute/path.sock, tcp://127.0.0.1:PORT or tcp://[::1]:PORT",
        )
    path = parse_path(text.removeprefix(LISTEN_PREFIX))
    if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
        raise GrammarError("socket path is too long", f"use at most {MAX_SOCKET_PATH_BYTES} bytes")
    return path


def parse_host(text: str) -> str:
    """What a ``Host`` header may say: a name and perhaps a port."""
    if _HOST.fullmatch(text) is None:
        raise GrammarError(f"{text!r} is not a host", "write a name, and :port if it needs one")
    return text


def parse_external(text: str) -> tuple[str, int]:
    """Host and port of a service outside: ``api.example.com``, ``*.example.com``, ``api.example.com:8443``.

    A host is a name: an address has no certificate that says whose it is.
    """
    host, _, port = text.partition(":")
    labels = host.removeprefix("*.").split(".")
    is_name = _EXTERNAL.fullmatch(text) is not None and all(map(_LABEL.fullmatch, labels))
    if not is_name or len(host) > MAX_HOST_CHARS or labels[-1].isdigit() or int(port or HTTPS_PORT) > MAX_PORT:
        raise GrammarError(
            f"{text!r} is not a host", "write a lower-case name, or *.name, and :port unless it is 443; no address"
        )
    return host, int(port or HTTPS_PORT)


def parse_unit(text: str) -> str:
    """A systemd unit name or an absolute cgroup path."""
    if _UNIT.fullmatch(text) is None:
        raise GrammarError(
            f"{text!r} is neither a systemd unit nor a cgroup path", "write crm.service, or a path beginning with /"
        )
    return text


def parse_operation(text: str) -> str:
    """A pattern over operations; ``*`` only at the end.

    ``POST /path``, ``tools/call crm.*``, ``tools/list``, ``message/send``, ``tasks/get task-1``.
    """
    if len(text) > MAX_OPERATION_CHARS:
        raise GrammarError("operation pattern is too long", f"use at most {MAX_OPERATION_CHARS} characters")
    http = _HTTP_OPERATION.fullmatch(text)
    if http is not None and http["method"] in HTTP_METHODS:
        return text
    if http is None and _RPC_OPERATION.fullmatch(text) is not None:
        return text
    method, _, target = text.partition(" ")
    if method in A2A_RENAMED:
        older = f"{A2A_RENAMED[method]} {target}".strip()
        raise GrammarError(f"{text!r} names an A2A method of version 1.0", f"write {older}: it holds for both versions")
    raise GrammarError(
        f"{text!r} is not an operation pattern",
        "write an HTTP method and path (POST /v1/items), an MCP method and name (tools/call crm.*) or an A2A method "
        "and task (message/send), with * only at the end; leave `operations` out to allow every operation",
    )


def parse_caller(text: str) -> str:
    """A SPIFFE ID, or a prefix of SPIFFE IDs that ends in ``/*``."""
    prefix = text.removesuffix("/*")
    try:
        if prefix == text:
            SpiffeId.parse(text)
        elif prefix.count("/") > len("//"):
            SpiffeId.parse(prefix)
        else:
            TrustDomain.parse(prefix.removeprefix("spiffe://") if prefix.startswith("spiffe://") else "")
    except IdentityError as error:
        raise GrammarError(
            f"{text!r} is no SPIFFE ID: {error.message}", "write spiffe://domain/path or spiffe://domain/path/*"
        ) from error
    return text


def parse_label_name(text: str) -> str:
    """The name of a container label: a selector writes ``name=value``, so the name has no ``=``."""
    if not text.isprintable() or "=" in text or len(text) > MAX_TEXT_CHARS:
        raise GrammarError(f"{text!r} is not a label name", "use printable characters without =")
    return text
