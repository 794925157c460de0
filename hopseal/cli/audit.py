"""``hopseal audit``: evidence out of logs, and what it proves. The commands are imported when they are used."""

from __future__ import annotations

import click

from hopseal.cli.lazy import LazyGroup

_COMMANDS = {
    "verify": ("hopseal.cli.audit_verify:verify", "What an evidence bundle proves, offline."),
    "export": ("hopseal.cli.audit_export:export", "An evidence bundle out of broker logs."),
    "show": ("hopseal.cli.audit_show:show", "An evidence bundle as a tree or a graph."),
    "search": ("hopseal.cli.audit_search:search", "Calls in broker logs, by who, what, whom for, and when."),
    "follow": ("hopseal.cli.audit_follow:follow", "New calls as brokers log them."),
    "check": ("hopseal.cli.audit_check:check", "A node's journal beside its Merkle log."),
    "prune": ("hopseal.cli.audit_prune:prune", "Delete old files of a broker's log."),
    "key": ("hopseal.cli.audit_prune:key", "The key of this node's log, as a vkey."),
    "compare": ("hopseal.cli.audit_compare:compare", "Sender's log against receiver's."),
    "witness": ("hopseal.cli.audit_witness:witness", "A witness that cosigns the logs of nodes."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def audit() -> None:
    """Evidence of chains: export it, verify it years later, search and compare logs.

    \b
    Example:
      hopseal audit export --task task-1 --log ./node-1 --log ./node-2 -o task-1.evidence
      hopseal audit verify task-1.evidence --policy witnesses.policy
    """
