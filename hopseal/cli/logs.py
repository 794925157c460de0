"""``hopseal logs``: what happened, out of the broker's custody log and the daemons' own log files."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hopseal.cli.followed_log import FollowedLog
from hopseal.cli.options import log_option
from hopseal.cli.output import escape_unprintable, format_json_line, json_option

POLL_S = 0.5
_STATEMENTS = {"rcp": "receipt", "obs": "observation", "cls": "closing statement", "seg": "segment"}
_ARTIFACTS = {"attest": "log key announced", "token": "user token seen", "revoke": "withdrawal"}
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
    the daemons in JSON; a broker's state or log folder stands for the files of the log. Under systemd the
    daemons' own log is in the journal: journalctl -u hopseal-attestor -u hopseal-broker.

    \b
    Example:
      hopseal logs crm-assistant/reasoner -f
      hopseal logs --log /var/lib/hopseal/broker/log --json
    """
    with ExitStack() as stack:
        files = [FollowedLog(stack, path) for path in logs]
        past = [entry for file in files for entry in file.entries() if _concerns(entry, component)]
        past.sort(key=_moment)
        for entry in past[max(0, len(past) - lines) :]:
            _print(entry, as_json=as_json)
        while follow:
            fresh = [entry for file in files for entry in file.entries() if _concerns(entry, component)]
            for entry in sorted(fresh, key=_moment):
                _print(entry, as_json=as_json)
            if not fresh:
                time.sleep(POLL_S)


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
        click.echo(format_json_line(entry))
        return
    at = datetime.fromtimestamp(_moment(entry), UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    click.echo(f"{at}  {_describe(entry)}")


def _describe(entry: dict[str, Any]) -> str:
    kind = entry.get("type")
    if kind == "start":
        return f"broker of node {_text(entry.get('node'))} started its log"
    if kind == "call":
        return _describe_call(entry)
    if kind in _ARTIFACTS:
        return f"{_ARTIFACTS[kind]}  entry {entry.get('n')}"
    if kind != "rec" and kind not in _STATEMENTS:
        known = {"event", "timestamp", "level", "logger", "question"}
        rest = " ".join(f"{key}={value}" for key, value in entry.items() if key not in known)
        return _text(f"{entry.get('level', '')} {entry.get('event', '')} {rest}".strip())
    verdict = str(entry.get("verdict"))
    painted = click.style(_text(verdict), fg="green" if verdict == "accepted" else "red")
    why = f"  {entry['code']}: {entry.get('detail') or ''}".rstrip(": ") if entry.get("code") else ""
    parts = f"{_short(entry.get('iss'))} → {_short(entry.get('aud'))}"
    said = f"{_STATEMENTS[kind]} {entry.get('st') or ''}".strip() if kind in _STATEMENTS else entry.get("op") or "?"
    said += f"  arguments {entry['args_hash']}" if entry.get("args_hash") else ""
    said += "  no custody" if kind == "obs" else ""
    hop = f" hop {entry.get('hop')}" if kind == "rec" else ""
    chain = entry.get("cid") or "?"
    text = f"{entry.get('dir')}  {parts}  {said}  chain {chain}{hop}{why}"
    return f"{painted} {_text(text)}"


def _describe_call(entry: dict[str, Any]) -> str:
    """A call that no record tells of."""
    verdict = str(entry.get("verdict"))
    painted = click.style(_text(verdict), fg="green" if verdict == "accepted" else "red")
    parts = f"{_short(entry.get('iss'))} → {_short(entry.get('aud'))}"
    ended = entry.get("ended")
    said = f"{entry.get('op') or '?'}  no custody ({entry.get('kind')}, {entry.get('phase')})"
    if isinstance(ended, dict):
        said += f"  {ended.get('st')}, {ended.get('received')} bytes, {ended.get('fin')}"
    why = f"  {entry['code']}: {entry.get('detail') or ''}".rstrip(": ") if entry.get("code") else ""
    text = f"{entry.get('dir')}  {parts}  {said}{why}"
    return f"{painted} {_text(text)}"


def _text(value: object) -> str:
    """What stands in a log may come from anybody: nothing of it moves a terminal's cursor or starts a line."""
    return escape_unprintable(str(value))


def _short(spiffe_id: object) -> str:
    return str(spiffe_id or "?").rpartition("/agents/")[2]
