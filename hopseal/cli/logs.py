"""``hopseal logs``: what happened, out of the broker's custody log and the daemons' own log files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import click

from hopseal.cli.options import log_option
from hopseal.cli.output import json_option
from hopseal.errors import UnavailableError

LOG_NAME = "custody.log"
POLL_S = 0.5
_CRC_CHARS = 9  # eight hex digits and a space before the JSON of a custody log line
_SILENT_TYPES = frozenset({"cert", "bundle"})
_COMPONENT_FIELDS = ("caller", "callee", "component", "iss", "aud", "spiffe_id")


@click.command()
@click.argument("component", required=False)
@click.option("-f", "--follow", is_flag=True, help="Keep printing what is appended.")
@click.option("-n", "--lines", type=click.IntRange(0), default=50, show_default=True, help="How many past lines.")
@log_option
@json_option
def logs(component: str | None, logs: tuple[Path, ...], lines: int, *, follow: bool, as_json: bool) -> None:
    """Print what happened, for COMPONENT (AGENT/COMPONENT) or for all.

    Reads custody logs (a record for each call sent or received, accepted or refused) and log files of
    the daemons in JSON; a folder stands for the custody.log in it. Under systemd the daemons' own log
    is in the journal: journalctl -u hopseal-attestor -u hopseal-broker.

    \b
    Example:
      hopseal logs crm-assistant/reasoner -f
      hopseal logs --log /var/lib/hopseal/broker/log --json
    """
    with ExitStack() as stack:
        files = [stack.enter_context(_open(path)) for path in logs]
        past = [entry for file in files for entry in _entries(file) if _concerns(entry, component)]
        past.sort(key=_moment)
        for entry in past[max(0, len(past) - lines) :]:
            _print(entry, as_json=as_json)
        while follow:
            fresh = [entry for file in files for entry in _entries(file) if _concerns(entry, component)]
            for entry in sorted(fresh, key=_moment):
                _print(entry, as_json=as_json)
            if not fresh:
                time.sleep(POLL_S)


def _open(path: Path) -> TextIO:
    file = path / LOG_NAME if path.is_dir() else path
    try:
        return file.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UnavailableError(
            "log_unreadable",
            f"{file}: {error.strerror}",
            remedy="name a readable log with --log, or run it as the broker's user",
        ) from error


def _entries(file: TextIO) -> Iterator[dict[str, Any]]:
    """The complete entries from here on; an unfinished line is left for the next time."""
    while True:
        before = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(before)
            return
        entry = _parse(line)
        if entry is not None and entry.get("type") not in _SILENT_TYPES:
            yield entry


def _parse(line: str) -> dict[str, Any] | None:
    text = line if line.startswith("{") else line[_CRC_CHARS:]
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _concerns(entry: dict[str, Any], component: str | None) -> bool:
    if component is None:
        return True
    values = [str(entry.get(field) or "") for field in _COMPONENT_FIELDS]
    return any(value == component or value.endswith(f"/agents/{component}") for value in values)


def _moment(entry: dict[str, Any]) -> float:
    if isinstance(entry.get("at_ms"), int):
        return float(entry["at_ms"]) / 1000
    try:
        return datetime.fromisoformat(str(entry.get("timestamp"))).timestamp()
    except ValueError:
        return 0.0


def _print(entry: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(entry, ensure_ascii=False))
        return
    at = datetime.fromtimestamp(_moment(entry), UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    click.echo(f"{at}  {_describe(entry)}")


def _describe(entry: dict[str, Any]) -> str:
    if entry.get("type") == "start":
        return f"broker of node {entry.get('node')} started its log"
    if entry.get("type") != "rec":
        known = {"event", "timestamp", "level", "logger"}
        rest = " ".join(f"{key}={value}" for key, value in entry.items() if key not in known)
        return f"{entry.get('level', '')} {entry.get('event', '')} {rest}".strip()
    verdict = str(entry.get("verdict"))
    painted = click.style(verdict, fg="green" if verdict == "accepted" else "red")
    why = f"  {entry['code']}: {entry.get('detail') or ''}".rstrip(": ") if entry.get("code") else ""
    parts = f"{_short(entry.get('iss'))} → {_short(entry.get('aud'))}  {entry.get('op') or '?'}"
    return f"{painted} {entry.get('dir')}  {parts}  chain {entry.get('cid') or '?'} hop {entry.get('hop')}{why}"


def _short(spiffe_id: object) -> str:
    return str(spiffe_id or "?").rpartition("/agents/")[2]
