"""The daemons' effective configurations, as the daemons themselves read them."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hopseal.cli.diagnosis.finding import Finding, failed, ok, skipped, warning
from hopseal.cli.lazy import NODE_PACKAGE, node_commands
from hopseal.errors import HopsealError


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """What was read of one daemon's configuration.

    Args:
        values: as ``hopseal config show --json`` prints them; None if there are none to go by.
    """

    finding: Finding
    values: dict[str, Any] | None

    def path(self, *keys: str) -> Path | None:
        """The path at ``keys``, or None if it is not set."""
        found: Any = self.values
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return Path(found) if isinstance(found, str) else None


def read_settings(daemon: str, file: Path) -> DaemonSettings:
    """The configuration in ``file``, or why there is none."""
    check = f"config.{daemon}"
    if not file.exists():
        missing = warning(
            check, f"{file} does not exist", "sockets are looked for where they are by default",
            f"write {file}, or name the file with --{daemon}-config",
        )  # fmt: skip
        return DaemonSettings(missing, None)
    try:
        group = node_commands(daemon)
        if not isinstance(group, click.Group):
            return DaemonSettings(
                skipped(check, f"the {daemon} is not installed here", "", f"pip install {NODE_PACKAGE}"), None
            )
        values = _effective(group, file)
    except HopsealError as error:
        return DaemonSettings(failed(check, error.message, error.detail or error.code, error.remedy), None)
    return DaemonSettings(ok(check, f"{file} is valid", f"node {values.get('node')} of {_domain(values)}"), values)


def _effective(group: click.Group, file: Path) -> dict[str, Any]:
    with click.Context(group) as parent:
        command = group.get_command(parent, "config")
        printed = io.StringIO()
        if command is not None:
            with (
                command.make_context("config", ["--config", str(file), "--json"], parent=parent) as context,
                contextlib.redirect_stdout(printed),
            ):
                command.invoke(context)
    values: dict[str, Any] = json.loads(printed.getvalue() or "{}")
    return values


def _domain(values: dict[str, Any]) -> str:
    domain = values.get("trust_domain")
    return str(domain.get("name") if isinstance(domain, dict) else domain)
