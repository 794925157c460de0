"""The command line as a whole: fast help, exit codes by error family, what is said when a package is missing."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import hopseal
from hopseal.cli.lazy import LazyGroup, exit_code
from hopseal.cli.main import cli
from hopseal.errors import BugError, DeniedError, HopsealError, InvalidError, UnavailableError


def test_help_imports_no_command_and_nothing_heavy() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from hopseal.cli.main import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        "heavy = {'httpx', 'grpclib', 'cryptography', 'yaml', 'rich', 'asyncio'} & sys.modules.keys()\n"
        "own = [name for name in sys.modules if name.startswith('hopseal.cli.')]\n"
        "print(sorted(heavy), own)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    # click's own test runner brings asyncio; nothing of ours does.
    assert shown.replace("'asyncio'", "").startswith("[]")
    assert "hopseal.cli.status" not in shown


@pytest.mark.parametrize(
    ("family", "code"), [(DeniedError, 1), (InvalidError, 2), (UnavailableError, 3), (BugError, 3)]
)
def test_an_error_becomes_one_message_and_the_code_of_its_family(family: type[HopsealError], code: int) -> None:
    @click.group(cls=LazyGroup)
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        raise family("a_code", "what is wrong", detail="first\nsecond", remedy="do this")

    result = CliRunner().invoke(group, ["fail"])
    assert result.exit_code == code == exit_code(family("x", "y"))
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["error: what is wrong  (a_code)", "  first", "  second", "  → do this"]


def test_an_interrupt_ends_quietly() -> None:
    @click.group(cls=LazyGroup)
    def group() -> None:
        pass

    @group.command()
    def wait() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(group, ["wait"])
    assert (result.exit_code, result.output) == (130, "")


def test_a_daemon_that_is_not_installed_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    result = CliRunner().invoke(cli, ["attestor", "run", "--config", "x"])
    assert result.exit_code == 3
    assert "pip install hopseal-node" in result.stderr
    shown = CliRunner().invoke(cli, ["config", "show", "broker"])
    assert shown.exit_code == 3
    assert "hopseal-node" in shown.stderr


def test_a_daemon_that_cannot_be_imported_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def load(self) -> object:
            raise ImportError("no such library")

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: (Broken(),))
    result = CliRunner().invoke(cli, ["broker", "run"])
    assert result.exit_code == 3
    assert "no such library" in result.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(cli, ["nonsense"]).exit_code == 2


def test_version_as_json_has_stable_keys() -> None:
    shown = json.loads(CliRunner().invoke(cli, ["version", "--json"]).stdout)
    assert shown.keys() == {"hopseal", "hopseal_node", "python"}
    assert "hopseal" in CliRunner().invoke(cli, ["version"]).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_HOPSEAL_COMPLETE" in result.stdout


def test_an_unknown_command_is_refused_with_what_was_probably_meant() -> None:
    assert "Did you mean status?" in CliRunner().invoke(cli, ["statu"]).stderr
    nothing_near = CliRunner().invoke(cli, ["xyzzy"])
    assert nothing_near.exit_code == 2
    assert "Did you mean" not in nothing_near.stderr


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version_is_an_option_too(flag: str) -> None:
    assert CliRunner().invoke(cli, [flag]).output == f"hopseal {hopseal.__version__}\n"
