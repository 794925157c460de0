"""The entry point ``hopseal``: the table of commands. Nothing heavy is imported before one is chosen."""

from __future__ import annotations

import sys

import click

import hopseal
from hopseal.cli.lazy import LazyGroup

_COMMANDS = {
    "up": ("hopseal.cli.up:up", "A whole node in the foreground, for trying it out."),
    "status": ("hopseal.cli.status:status", "What runs on this node and whether it is what was approved."),
    "doctor": ("hopseal.cli.doctor:doctor", "What is wrong on this node and what to do."),
    "explain": ("hopseal.cli.explain:explain", "Approved against measured, item by item, and what to do."),
    "agents": ("hopseal.cli.agents:agents", "Agent documents: draft, check, approve, suspend."),
    "entries": ("hopseal.cli.entries:entries", "Registration entries on a SPIRE Server."),
    "svid": ("hopseal.cli.svid:svid", "SVIDs and bundles from the SPIFFE Workload API."),
    "call": ("hopseal.cli.call:call", "One brokered call from a shell."),
    "run": ("hopseal.cli.run:run", "An unmodified program, its calls brokered."),
    "serve-stdio": ("hopseal.cli.serve_stdio:serve_stdio", "A stdio MCP server, behind a socket."),
    "chain": ("hopseal.cli.chain:chain", "Custody chains, verified offline."),
    "audit": ("hopseal.cli.audit:audit", "Evidence for auditors: export, verify, search, compare."),
    "logs": ("hopseal.cli.logs:logs", "What happened, for one component or all."),
    "config": ("hopseal.cli.config:config", "The daemons' effective configuration."),
    "completion": ("hopseal.cli.completion:completion", "Completion for bash, zsh or fish."),
    "version": ("hopseal.cli.version:version", "The version of this program."),
}
_NODE_COMMANDS = {
    "attestor": "The daemon that decides who a process is.",
    "broker": "The daemon that carries calls between components.",
    "policy": "Who may call whom: check, explain and test policies.",
}


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    node=_NODE_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 yes, 1 no (a refusal is an answer), 2 usage or bad input, 3 unavailable (try again).",
)
@click.version_option(hopseal.__version__, "-V", "--version", message="hopseal %(version)s")
def cli() -> None:
    """Attested identity and sealed chain of custody for AI agents.

    \b
    Example:
      hopseal status
    """


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(cli(prog_name="hopseal"))


if __name__ == "__main__":
    main()
