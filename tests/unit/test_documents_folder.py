"""Agent documents in a folder: which files count, and what following it tells."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hopseal.documents.follow import DocumentFollower
from hopseal.documents.load import load_documents
from hopseal.errors import UnavailableError
from hopseal.ids import TrustDomain

TD = TrustDomain.parse("example.org")
DOCUMENT = """\
apiVersion: hopseal.dev/v1alpha1
kind: Agent
metadata: {{name: {name}}}
spec:
  owner: someone@example.org
  components:
    - name: only
      role: environment
      attest: {{uid: {uid}, unsafeUidOnly: true}}
"""


def write(folder: Path, name: str, uid: int = 1000) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(DOCUMENT.format(name=name, uid=uid))
    return path


def test_only_visible_yaml_files_of_the_folder_itself_are_documents(tmp_path: Path) -> None:
    write(tmp_path, "one", 1)
    write(tmp_path, "two", 2).rename(tmp_path / "two.yml")
    (tmp_path / ".hidden.yaml").write_text("[")
    (tmp_path / "README.md").write_text("[")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "x.yaml").write_text("[")
    assert [agent.name for agent in load_documents(tmp_path, TD).agents] == ["one", "two"]


def test_a_missing_folder_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        load_documents(tmp_path / "nowhere", TD)
    assert caught.value.code == "documents_unreadable"


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling"])
def test_a_document_that_is_no_file_is_unavailable_and_blocks_nobody(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.yaml"
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "dangling": lambda: path.symlink_to("nowhere")}[kind]()
    with pytest.raises(UnavailableError, match=r"x\.yaml"):
        load_documents(tmp_path, TD)


@asynccontextmanager
async def following(folder: Path):
    follower = DocumentFollower(folder, TD, interval_s=0.01, clock=lambda: 1700000000.9)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def next_state(states):
    async with asyncio.timeout(10):
        return await anext(states)


async def test_a_follower_tells_the_first_state_and_every_change(tmp_path: Path) -> None:
    write(tmp_path, "one")
    async with following(tmp_path) as follower:
        states = follower.changes()
        first = await next_state(states)
        assert first.documents is not None
        assert first.loaded_at == 1700000000
        write(tmp_path, "two", 2)
        second = await next_state(states)
        assert second.documents is not None
        assert len(second.documents.agents) == 2
        assert second.documents.sha256 != first.documents.sha256


async def test_a_bad_edit_keeps_the_last_good_set_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path, "one")
    async with following(tmp_path) as follower:
        states = follower.changes()
        good = await next_state(states)
        text = path.read_text()
        path.write_text("metadata: [")
        bad = await next_state(states)
        assert bad.documents is good.documents
        assert bad.problems[0].file == "one.yaml"
        path.write_text(text)
        mended = await next_state(states)
        assert mended.problems == ()
        assert mended.documents == good.documents


async def test_a_folder_that_disappears_keeps_the_last_good_set(tmp_path: Path) -> None:
    folder = tmp_path / "agents"
    folder.mkdir()
    write(folder, "one")
    async with following(folder) as follower:
        states = follower.changes()
        good = await next_state(states)
        folder.rename(tmp_path / "away")
        gone = await next_state(states)
        assert gone.documents is good.documents
        assert gone.problems[0].file == str(folder)
        (tmp_path / "away").rename(folder)
        assert (await next_state(states)).problems == ()


async def test_without_any_good_set_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("[")
    follower = DocumentFollower(tmp_path, TD)
    assert follower.current.documents is None
    state = await follower.load()
    assert state.documents is None
    assert state.loaded_at == 0
    assert state.problems


async def test_an_unchanged_folder_gives_the_same_state(tmp_path: Path) -> None:
    write(tmp_path, "one")
    follower = DocumentFollower(tmp_path, TD)
    assert await follower.load() is await follower.load()


async def test_a_late_follower_gets_the_newest_state_at_once(tmp_path: Path) -> None:
    write(tmp_path, "one")
    follower = DocumentFollower(tmp_path, TD)
    state = await follower.load()
    assert await next_state(follower.changes()) is state
