"""A click group that imports a command only when it is used, and turns errors into exit codes.

Exit codes: 0 yes, 1 no (a refusal: the answer), 2 usage or bad input, 3 unavailable (try again).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click

from hopseal.errors import BugError, DeniedError, HopsealError, InvalidError, UnavailableError

EXIT_NO, EXIT_BAD_INPUT, EXIT_UNAVAILABLE, EXIT_INTERRUPTED = 1, 2, 3, 130
ENTRY_POINT_GROUP = "hopseal.commands"
NODE_PACKAGE = "hopseal-node"

_EXIT_CODES: tuple[tuple[type[HopsealError], int], ...] = (
    (DeniedError, EXIT_NO),
    (InvalidError, EXIT_BAD_INPUT),
    (UnavailableError, EXIT_UNAVAILABLE),
    (BugError, EXIT_UNAVAILABLE),
)


class LazyGroup(click.Group):
    """A group whose commands stand in a table and are imported when called.

    Args:
        lazy: command name to ``(module:attribute, one line of help)``.
        node: commands that the node package brings, by entry point, with one line of help each.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]] | None = None,
        node: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})
        self._node = dict(node or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the tables."""
        return [*self._lazy, *self._node, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now; None if there is none."""
        if cmd_name in self._lazy:
            module, _, attribute = self._lazy[cmd_name][0].partition(":")
            found: click.Command = getattr(importlib.import_module(module), attribute)
            return found
        if cmd_name in self._node:
            return _load_node_command(cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that ``args`` begin with; an unknown one is refused with what was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {near[0]}?", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands out of the tables, importing none of them."""
        rows = [(name, line) for name, (_, line) in self._lazy.items()] + list(self._node.items())
        own = ((name, super(LazyGroup, self).get_command(ctx, name)) for name in super().list_commands(ctx))
        rows += [(name, command.get_short_help_str()) for name, command in own if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours becomes one message and an exit code."""
        try:
            return super().invoke(ctx)
        except HopsealError as error:
            print_error(error)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


def exit_code(error: HopsealError) -> int:
    """What the process ends with for an error of that family."""
    return next((code for family, code in _EXIT_CODES if isinstance(error, family)), EXIT_UNAVAILABLE)


def print_error(error: HopsealError) -> None:
    """Say on standard error what is wrong and what to do next."""
    click.secho(f"error: {error.message}", fg="red", err=True, nl=False)
    click.secho(f"  ({error.code})", dim=True, err=True)
    for line in error.detail.splitlines():
        click.echo(f"  {line}", err=True)
    if error.remedy:
        click.secho(f"  → {error.remedy}", fg="cyan", err=True)


def node_commands(name: str) -> click.Command | None:
    """The command that an installed package brings under ``name``, or None."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - takes longer than most commands do

    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        try:
            found: click.Command = entry_point.load()
        except ImportError as error:
            raise UnavailableError(
                "node_package_broken",
                f"{NODE_PACKAGE} is installed but {name} cannot be loaded",
                detail=str(error),
                remedy=f"pip install --force-reinstall {NODE_PACKAGE}",
            ) from error
        return found
    return None


def _load_node_command(name: str) -> click.Command:
    return node_commands(name) or _missing_node_package(name)


def _missing_node_package(name: str) -> click.Command:
    @click.command(name, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def missing() -> None:
        raise UnavailableError(
            "node_package_missing",
            f"`hopseal {name}` is part of {NODE_PACKAGE}, which is not installed here",
            remedy=f"pip install {NODE_PACKAGE}",
        )

    missing.help = f"Part of {NODE_PACKAGE}, which is not installed here.\n\n\b\nExample:\n  hopseal {name} run"
    return missing
