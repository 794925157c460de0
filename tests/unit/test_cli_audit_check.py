"""hopseal audit check: whatever somebody does to a journal or its tiles after they were signed is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker.audit.log_signer import load_log_signer
from broker.audit.tree import GrowingTree
from hopseal.cli.main import cli
from hopseal.log.checkpoint import Checkpoint
from hopseal.log.entries import format_line, read_payload
from hopseal.log.log_key import sign_checkpoint
from hopseal.log.segments import format_closed_name
from hopseal.log.tiles import Tile
from journals import LogFolder


@pytest.fixture
def log(tmp_path: Path) -> LogFolder:
    """A log of 300 entries in files of 100, 290 of them published."""
    made = LogFolder(tmp_path, per_file=100)
    made.append(300)
    made.store.make_folder()
    tree = GrowingTree(0, made.store.read)
    made.store.write_tiles(tree.add(made.journal.leaves[:290]))
    note = sign_checkpoint(Checkpoint(made.signer.key.name, 290, tree.root), made.signer)
    made.store.write_note("checkpoint", note)
    return made


def check(log: LogFolder, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["audit", "check", "--log", str(log.folder), *arguments], catch_exceptions=False)


def found(log: LogFolder) -> dict:
    result = check(log, "--json")
    (comparison,) = json.loads(result.output)
    assert result.exit_code == (0 if comparison["holds"] else 1)
    return comparison


def rewrite(log: LogFolder, n: int, change: Callable[[bytes], bytes]) -> None:
    path = log.journal.folder / (format_closed_name(n // 100 * 100) if n < 200 else "custody.log")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[n % 100] = change(lines[n % 100])
    path.write_bytes(b"".join(lines))


def test_a_log_that_nobody_touched_holds(log: LogFolder) -> None:
    result = check(log, "--key", str(log.signer.key))
    assert result.exit_code == 0
    assert "verified: 290 entries signed, 10 not yet" in result.output
    assert (found(log)["first"], found(log)["changed"]) == (0, [])


def test_a_changed_line_with_a_right_checksum_is_named(log: LogFolder) -> None:
    rewrite(log, 42, lambda line: format_line(read_payload(line[:-1]).replace(b"th-", b"TH-")))
    result = check(log)
    assert result.exit_code == 1
    assert "changed: 42" in result.output
    assert found(log)["changed"] == [42]


def test_a_damaged_or_removed_line_is_missing(log: LogFolder) -> None:
    rewrite(log, 7, lambda line: b"X" + line[1:])
    rewrite(log, 150, lambda _: b"")
    assert found(log)["missing"] == [7, 150]
    assert "missing: 7, 150" in check(log).output


def test_two_lines_of_one_number_and_lines_that_are_no_entries_are_changes(log: LogFolder) -> None:
    rewrite(log, 9, lambda _: format_line(b'{"n":9,"at_ms":1,"type":"rec","verdict":"accepted"}'))
    rewrite(log, 8, lambda line: line + line)
    assert found(log)["changed"] == [8, 9]


def test_of_many_changes_some_are_named(log: LogFolder) -> None:
    (log.journal.folder / format_closed_name(100)).write_bytes(b"")
    assert "and 90 more" in check(log).output


def test_pruned_files_are_no_change(log: LogFolder) -> None:
    (log.journal.folder / format_closed_name(0)).unlink()
    assert (found(log)["holds"], found(log)["first"]) == (True, 100)
    assert "from entry 100" in check(log).output


def test_tiles_that_are_not_those_of_the_checkpoint_are_found(log: LogFolder) -> None:
    path = log.store.folder / Tile(0, 0).path
    whole = path.read_bytes()
    path.write_bytes(bytes(32) + whole[32:])
    assert "another root" in found(log)["tiles_problem"]
    assert "tiles: " in check(log).output
    path.write_bytes(whole[:-1])
    assert found(log)["tiles_problem"]
    path.unlink()
    assert found(log)["tiles_problem"]


def test_a_checkpoint_of_another_key_or_none_is_not_compared_with(log: LogFolder, tmp_path: Path) -> None:
    other = load_log_signer(tmp_path / "other.key", log.signer.key.name)
    assert check(log, "--key", str(other.key)).exit_code == 2
    elsewhere = load_log_signer(tmp_path / "third.key", "custody.example.org/elsewhere")
    assert check(log, "--key", str(elsewhere.key)).exit_code == 2
    (log.store.folder / "checkpoint").unlink()
    assert check(log).exit_code == 3
