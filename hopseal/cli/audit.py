"""``hopseal audit``: evidence for auditors, and the witness that dates it."""

from __future__ import annotations

import click

from hopseal.cli.lazy import LazyGroup

_COMMANDS = {
    "witness": ("hopseal.cli.audit_witness:witness", "A witness that cosigns the logs of nodes."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def audit() -> None:
    """Evidence for auditors, and the witness that dates it.

    \b
    Example:
      hopseal audit witness run --config /etc/hopseal/witness.yaml
    """
