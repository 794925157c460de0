"""The README's commands and the program's help texts are held against the program."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hopseal.cli.main import cli
from hopseal.documents.parse import parse_documents
from hopseal.ids import TrustDomain

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shell_lines(page: Path) -> Iterator[str]:
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield line.strip()


def documented() -> list[tuple[str, str]]:
    return [(page.name, line) for page in PAGES for line in shell_lines(page)]


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, (*path, name))


COMMANDS = dict(walk(cli))


@pytest.mark.parametrize(("page", "line"), documented())
def test_every_documented_make_target_exists(page, line):
    words = shlex.split(line, comments=True)
    if words[:1] != ["make"]:
        return
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(words[1:]) <= targets, f"{page}: {line}"


@pytest.mark.parametrize(("page", "line"), documented())
def test_every_documented_hopseal_command_and_option_exists(page, line):
    words = shlex.split(line, comments=True)
    names = [index for index, word in enumerate(words) if word.rsplit("/", 1)[-1] == "hopseal"]
    if not names:
        return
    words = words[names[0] + 1 :]
    path: tuple[str, ...] = ()
    while words and (*path, words[0]) in COMMANDS:
        path = (*path, words.pop(0))
    assert path or not words or words[0].startswith("-"), f"{page}: unknown command in {line!r}"
    options = {option for parameter in COMMANDS[path].params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word in {"|", ">", "&&", "--", "&"}:
            break
        if word.startswith("--"):
            assert word.split("=")[0] in options | {"--help"}, f"{page}: {word} is no option of {' '.join(path)}"


def documented_agents() -> list[tuple[str, str]]:
    blocks = [
        (page.name, each) for page in PAGES for each in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    return [(name, block) for name, block in blocks if "kind: Agent" in block]


@pytest.mark.parametrize(("page", "block"), documented_agents())
def test_every_documented_agent_is_a_valid_document(page, block):
    assert parse_documents({page: block.encode()}, TrustDomain.parse("example.org")).agents


def test_the_guide_has_an_agent_to_copy():
    assert "guide.md" in {page for page, _ in documented_agents()}


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if path], ids=" ".join)
def test_every_command_explains_itself_with_an_example(path):
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    if not isinstance(COMMANDS[path], click.Group):
        assert f"hopseal {' '.join(path)}" in result.output.split("\n", 1)[1], "no example in the help text"
