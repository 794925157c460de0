"""hopseal audit prune and key: what may be deleted, that it is shown first, and what is never touched."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fake_daemon import fake_daemon
from hopseal.cli.main import cli
from hopseal.log.checkpoint import Checkpoint
from hopseal.log.entries import format_line
from hopseal.log.log_key import sign_checkpoint
from hopseal.log.segments import CURRENT, ClosedSegment, choose_prunable, format_closed_name
from journals import LogFolder

DAY_MS = 86_400_000
NOW_MS = int(time.time() * 1000)


def segments(*newest_ms: int | None) -> list[ClosedSegment]:
    return [ClosedSegment(format_closed_name(10 * n), 10 * n, 10 * n + 10, ms) for n, ms in enumerate(newest_ms)]


@pytest.mark.parametrize(
    ("newest", "covered", "chosen", "why"),
    [
        ((1, 2, 3), 30, 3, ""),
        ((), 30, 0, ""),
        ((1, 2, 3), 29, 2, "not under the published checkpoint"),
        ((1, 2, 9), 30, 2, "has newer entries"),
        ((1, 10, 3), 30, 1, "has newer entries"),
        ((1, None, 3), 30, 1, "is damaged"),
    ],
)
def test_only_a_beginning_of_old_whole_and_published_files_goes(
    newest: tuple[int | None, ...], covered: int, chosen: int, why: str
) -> None:
    files = segments(*newest)
    found, reason = choose_prunable(files, before_ms=9, covered=covered)
    assert list(found) == files[:chosen]
    assert why in reason
    assert bool(reason) == bool(why)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of ten entries each, ten, five and three days old, the growing one of today; 30 entries published."""
    log = LogFolder(tmp_path)
    log.store.make_folder()
    note = sign_checkpoint(Checkpoint(log.signer.key.name, 30, bytes(32)), log.signer)
    log.store.write_note("checkpoint", note)
    for number, days in enumerate((10, 5, 3, 0)):
        name = format_closed_name(10 * number) if days else CURRENT
        lines = [
            format_line(b'{"n":%d,"at_ms":%d,"type":"token"}' % (n, NOW_MS - days * DAY_MS))
            for n in range(10 * number, 10 * number + 10)
        ]
        (tmp_path / "log" / name).write_bytes(b"".join(lines))
    return tmp_path / "log"


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["audit", "prune", "--log", str(folder), *arguments], catch_exceptions=False)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_without_yes_nothing_is_deleted(folder: Path) -> None:
    before = names(folder)
    result = run(folder, "--before", "4d")
    assert result.exit_code == 0
    assert f"{format_closed_name(0)}  10 entries" in result.output
    assert "2 files would go" in result.output
    assert f"{format_closed_name(20)} has newer entries" in result.output
    assert names(folder) == before


def test_with_yes_exactly_what_was_shown_is_deleted(folder: Path) -> None:
    shown = json.loads(run(folder, "--before", "4d", "--json").output)
    done = json.loads(run(folder, "--before", "4d", "--json", "--yes").output)
    assert (shown["files"], shown["deleted"], done["deleted"]) == (done["files"], False, True)
    assert [each["entries"] for each in done["files"]] == [10, 10]
    assert names(folder) == [format_closed_name(20), CURRENT]
    assert "0 files deleted" in run(folder, "--before", "4d", "--yes").output
    assert (folder.parent / "tlog" / "checkpoint").exists()


def test_the_growing_file_never_goes(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(str(NOW_MS).encode(), b"1"))
    lines = [format_line(b'{"n":%d,"at_ms":1,"type":"token"}' % n) for n in range(30, 40)]
    (folder / CURRENT).write_bytes(b"".join(lines))
    assert run(folder, "--before", "2h", "--yes").exit_code == 0
    assert names(folder) == [CURRENT]


def test_a_full_file_stays_while_nothing_follows_it(folder: Path) -> None:
    (folder / CURRENT).write_bytes(b"")
    run(folder, "--before", "2h", "--yes")
    assert names(folder) == [format_closed_name(20), CURRENT]


def test_a_damaged_file_stays(folder: Path) -> None:
    path = folder / format_closed_name(0)
    path.write_bytes(path.read_bytes()[:-4])
    result = run(folder, "--before", "4d", "--yes")
    assert "is damaged" in result.output
    assert len(names(folder)) == 4


@pytest.mark.parametrize("arguments", [("--before", "59m"), ("--before", "2999-01-01"), ("--before", "soon"), ()])
def test_a_time_that_is_too_young_or_none_is_bad_input(folder: Path, arguments: tuple[str, ...]) -> None:
    assert run(folder, *arguments).exit_code == 2


def test_without_a_published_checkpoint_or_a_log_nothing_goes(folder: Path, tmp_path: Path) -> None:
    (folder.parent / "tlog" / "checkpoint").unlink()
    result = run(folder, "--before", "4d", "--yes")
    assert result.exit_code == 3
    assert "log_unsigned" in result.stderr
    assert run(tmp_path / "tlog", "--before", "4d").exit_code == 3
    assert run(tmp_path / "none", "--before", "4d").exit_code == 3


def test_the_key_is_that_of_the_running_broker(tmp_path: Path) -> None:
    audit = {"origin": "custody.example.org/n", "vkey": "custody.example.org/n+0123abcd+AQ"}
    with fake_daemon(tmp_path / "b.sock", {"GET /v1/status": (200, {"audit": audit})}) as daemon:
        socket = ["--broker-socket", str(daemon.socket)]
        result = CliRunner().invoke(cli, ["audit", "key", *socket])
        assert result.output == audit["vkey"] + "\n"
        assert json.loads(CliRunner().invoke(cli, ["audit", "key", "--json", *socket]).output) == audit
    assert CliRunner().invoke(cli, ["audit", "key", "--broker-socket", str(tmp_path / "no.sock")]).exit_code == 3
