"""Notices about declared files, as a process with a root of its own sees them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from attestor import syscalls
from attestor.config_watch import ConfigWatches, WatchUnavailable
from attestor.offload import Offload
from attestor.peer import PinnedProcess, pin_pid
from children import child, open_descriptors
from waiting import async_wait_until

CHROOT = "import os, sys; os.chroot(sys.argv[1]); os.chdir('/'); print('ready'); input()"
NOTICE_S = 5.0
QUIET_S = 0.1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "etc/prompts/deep").mkdir(parents=True)
    (folder / "etc/settings").write_text("1")
    (folder / "etc/prompts/a").write_text("1")
    (folder / "etc/prompts/deep/b").write_text("1")
    return folder


@pytest.fixture
def process(root: Path) -> Iterator[PinnedProcess]:
    with child(CHROOT, str(root)) as component, pin_pid(component.pid) as pinned:
        yield pinned


@pytest.fixture
async def watches() -> AsyncIterator[ConfigWatches]:
    offload = Offload()
    async with ConfigWatches(offload, timeout_s=NOTICE_S) as watches:
        yield watches
    offload.close()


@asynccontextmanager
async def watching(
    watches: ConfigWatches, process: PinnedProcess, *paths: str
) -> AsyncIterator[Callable[[], asyncio.Future[None]]]:
    async with watches.watch(process, paths) as notices:
        yield lambda: asyncio.ensure_future(asyncio.wait_for(anext(notices), NOTICE_S))


async def quiet(watches: ConfigWatches, process: PinnedProcess, change: Callable[[], object], *paths: str) -> bool:
    """Whether ``change`` gives no notice; a change that gives one follows, so nothing is waited out."""
    async with watches.watch(process, paths) as notices:
        change()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(notices), QUIET_S)
        return True


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file is written": lambda root: (root / "etc/settings").write_text("2"),
    "a file is appended to": lambda root: _append(root / "etc/settings"),
    "a file is replaced by rename": lambda root: _replace(root / "etc/settings"),
    "a file is removed": lambda root: (root / "etc/settings").unlink(),
    "a file is moved away": lambda root: (root / "etc/settings").rename(root / "away"),
    "a file's folder is moved away": lambda root: (root / "etc/prompts").rename(root / "away"),
    "a file in a folder is written": lambda root: (root / "etc/prompts/a").write_text("2"),
    "a file deep in a folder is written": lambda root: (root / "etc/prompts/deep/b").write_text("2"),
    "a file is added to a folder": lambda root: (root / "etc/prompts/new").touch(),
    "a file is added deep in a folder": lambda root: (root / "etc/prompts/deep/new").touch(),
    "a folder is removed": lambda root: shutil.rmtree(root / "etc/prompts"),
    "a file is truncated": lambda root: os.truncate(root / "etc/settings", 0),
    "a second name is given to a file": lambda root: os.link(root / "etc/settings", root / "second"),
}


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("2")


def _replace(path: Path) -> None:
    path.with_name("next").write_text("2")
    path.with_name("next").rename(path)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_every_kind_of_change_gives_a_notice(
    watches: ConfigWatches, process: PinnedProcess, root: Path, change: Callable[[Path], object]
) -> None:
    async with watching(watches, process, "/etc/settings", "/etc/prompts") as notice:
        change(root)
        await notice()


async def test_notices_go_on_after_a_file_was_replaced(
    watches: ConfigWatches, process: PinnedProcess, root: Path
) -> None:
    async with watching(watches, process, "/etc/settings") as notice:
        for _ in range(5):
            _replace(root / "etc/settings")
            await notice()
            (root / "etc/settings").write_text("in place")
            await notice()


async def test_a_new_file_in_a_folder_is_watched_from_then_on(
    watches: ConfigWatches, process: PinnedProcess, root: Path
) -> None:
    async with watching(watches, process, "/etc/prompts") as notice:
        (root / "etc/prompts/sub").mkdir()
        await notice()
        (root / "etc/prompts/sub/new").touch()
        await notice()
        (root / "etc/prompts/sub/new").write_text("2")
        await notice()


async def test_a_missing_file_gives_a_notice_when_it_appears_even_with_its_folders(
    watches: ConfigWatches, process: PinnedProcess, root: Path
) -> None:
    async with watching(watches, process, "/var/lib/agent/pin.json") as notice:
        (root / "var").mkdir()
        await notice()
        (root / "var/lib/agent").mkdir(parents=True)
        await notice()
        (root / "var/lib/agent/pin.json").touch()
        await notice()


async def test_a_swap_of_an_atomic_volume_gives_a_notice(
    watches: ConfigWatches, process: PinnedProcess, root: Path
) -> None:
    volume = root / "volume"
    for version in ("1", "2"):
        (volume / f"..2026_01_01_00_00_00.{version}").mkdir(parents=True)
        (volume / f"..2026_01_01_00_00_00.{version}/a").write_text(version)
    (volume / "..data").symlink_to("..2026_01_01_00_00_00.1")
    (volume / "a").symlink_to("..data/a")
    for paths in (["/volume"], ["/volume/a"]):
        async with watching(watches, process, *paths) as notice:
            for version in ("2", "1"):
                (volume / "..data_tmp").symlink_to(f"..2026_01_01_00_00_00.{version}")
                (volume / "..data_tmp").rename(volume / "..data")
                await notice()


async def test_other_files_of_the_same_folder_and_the_hosts_own_give_none(
    watches: ConfigWatches, process: PinnedProcess, root: Path
) -> None:
    assert await quiet(watches, process, lambda: (root / "etc/other").write_text("x"), "/etc/settings")
    assert await quiet(watches, process, (root / "etc/settings").read_text, "/etc/settings")
    assert await quiet(watches, process, lambda: (root.parent / "settings").write_text("x"), "/etc/settings")


async def test_a_link_is_not_followed_out_of_the_root(
    watches: ConfigWatches, process: PinnedProcess, root: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1")
    (root / "etc/link").symlink_to(secret)
    assert await quiet(watches, process, lambda: secret.write_text("2"), "/etc/link")


async def test_several_processes_may_watch_one_file_and_each_is_told(
    watches: ConfigWatches, process: PinnedProcess, root: Path
) -> None:
    async with watching(watches, process, "/etc/settings") as first:
        async with watching(watches, process, "/etc/settings", "/etc/prompts") as second:
            (root / "etc/settings").write_text("2")
            await asyncio.gather(first(), second())
        (root / "etc/settings").write_text("3")
        await first()


async def test_many_changes_are_one_notice(watches: ConfigWatches, process: PinnedProcess, root: Path) -> None:
    async with watches.watch(process, ["/etc/settings"]) as notices:
        for number in range(100):
            (root / "etc/settings").write_text(str(number))
        await asyncio.wait_for(anext(notices), NOTICE_S)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(notices), QUIET_S)


async def test_a_queue_that_overflowed_tells_everybody(
    watches: ConfigWatches, process: PinnedProcess, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow = b"\xff\xff\xff\xff" + (0x4000).to_bytes(4, "little") + bytes(8)
    async with watching(watches, process, "/etc/settings") as notice:
        read = os.read
        monkeypatch.setattr(os, "read", lambda fd, size: overflow if fd == watches._fd else read(fd, size))
        watches._on_readable()
        monkeypatch.undo()
        await notice()


async def test_ended_watches_leave_neither_descriptors_nor_kernel_watches(
    watches: ConfigWatches, process: PinnedProcess, root: Path
) -> None:
    def kernel_watches() -> int:
        return Path(f"/proc/self/fdinfo/{watches._fd}").read_text(encoding="ascii").count("inotify wd:")

    before = open_descriptors()
    for _ in range(50):
        async with watching(watches, process, "/etc/settings", "/etc/prompts", "/missing/x") as notice:
            assert kernel_watches() > 4
            _replace(root / "etc/settings")
            await notice()
    await async_wait_until(lambda: kernel_watches() == 0)
    assert open_descriptors() <= before
    assert watches._subscribers == {}


async def test_a_process_that_is_gone_cannot_be_watched(watches: ConfigWatches, root: Path) -> None:
    with child(CHROOT, str(root)) as component, pin_pid(component.pid) as gone:
        component.end()
        with pytest.raises(WatchUnavailable):
            async with watches.watch(gone, ["/etc/settings"]):
                pass


async def test_a_kernel_without_room_for_watches_is_an_error_and_leaves_nothing(
    watches: ConfigWatches, process: PinnedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int, _path: bytes, _mask: int) -> int:
        raise OSError(28, "No space left on device")

    before = open_descriptors()
    monkeypatch.setattr(syscalls, "inotify_add_watch", full)
    with pytest.raises(WatchUnavailable):
        async with watches.watch(process, ["/etc/settings"]):
            pass
    assert open_descriptors() <= before
    assert watches._subscribers == {}
