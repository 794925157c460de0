"""What a witness remembers and how it starts from it: never older than what it cosigned."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from hopseal.errors import BugError, HopsealError, InvalidError, UnavailableError
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.witness import Head, WitnessRefusalError, decide
from hopseal.witness import files, keys
from hopseal.witness.cosigner import CLOCK_STEP_S, EARLIEST, Cosigner
from hopseal.witness.keys import ALGORITHMS, key_path, load_signers, make_keys
from hopseal.witness.memory import Memory, parse_memory
from hopseal.witness.state import WitnessState, hash_origin, open_state
from tlog_parts import LOG_KEY, NOW, ORIGIN, MemoryLog, cosigned

TREE = MemoryLog.of(20)
LOGS = {ORIGIN: (LOG_KEY.key,)}
NAME = "witness.example/w1"
MEMORY = Memory(NAME, NOW, {"b log": Head(2**63 - 1, bytes(32)), "a": Head(0, bytes(range(32)))})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def code_of(function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(HopsealError) as caught:
        function(*arguments)
    assert caught.value.remedy
    return caught.value.code


def start(folder: Path, name: str = NAME, algorithms: tuple[str, ...] = ("ed25519",)) -> Memory:
    """Open the folder, close it again, and tell what is remembered."""
    with open_state(folder, name, algorithms) as state:
        return state.memory


def cosign(folder: Path, *sizes: int) -> None:
    """Cosign the tree at these sizes, one after the other."""
    with open_state(folder, NAME, ("ed25519",)) as state:
        cosigner = Cosigner(state, LOGS, now=lambda: NOW)
        for size in sizes:
            head = state.memory.heads.get(ORIGIN)
            cosigner.add_checkpoint(TREE.request(head.size if head else 0, size).encode())


def test_a_memory_is_read_as_it_was_written() -> None:
    assert parse_memory(MEMORY.encode()) == MEMORY
    assert parse_memory(Memory(NAME).encode()).heads == {}


@pytest.mark.parametrize("at", range(len(MEMORY.encode())))
def test_a_memory_with_one_wrong_bit_is_corrupt(at: int) -> None:
    data = bytearray(MEMORY.encode())
    data[at] ^= 1
    assert code_of(parse_memory, bytes(data)) == "witness_state_corrupt"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hopseal-witness/v1\n",
        "hopseal-witness/v1\nname a\n",
        "hopseal-witness/v1\nname a\nat 01\n",
        "hopseal-witness/v2\nname a\nat 0\n",
        "hopseal-witness/v1\nname a\nat 0",
        "hopseal-witness/v1\nname a\nat 0\n\n",
        "hopseal-witness/v1\nname a\nat 0\nhead 1 AAAA o\n",
        "hopseal-witness/v1\nname a\nat 0\nhead 1\n",
        "hopseal-witness/v1\nat 0\nname a\n",
    ],
)
def test_a_memory_with_a_right_checksum_that_says_something_else_is_corrupt(body: str) -> None:
    data = hashlib.sha256(body.encode()).hexdigest().encode() + b"\n" + body.encode()
    assert code_of(parse_memory, data) == "witness_state_corrupt"


def test_a_new_folder_gets_keys_that_only_its_owner_reads_and_an_empty_memory(folder: Path) -> None:
    assert start(folder, algorithms=ALGORITHMS) == Memory(NAME)
    assert folder.stat().st_mode & 0o777 == 0o700
    for algorithm in ALGORITHMS:
        assert key_path(folder, algorithm).stat().st_mode & 0o777 == 0o600


def test_keys_and_memory_are_the_same_after_a_restart(folder: Path) -> None:
    start(folder)
    first = load_signers(folder, NAME)
    cosign(folder, 5, 9)
    assert start(folder).heads == {ORIGIN: Head(9, TREE.checkpoint(9).root)}
    assert [each.key for each in load_signers(folder, NAME)] == [each.key for each in first]


def test_a_second_algorithm_gets_its_key_later_and_the_first_keeps_its_own(folder: Path) -> None:
    start(folder)
    (first,) = load_signers(folder, NAME)
    start(folder, algorithms=ALGORITHMS)
    assert load_signers(folder, NAME)[0].key == first.key
    assert len(load_signers(folder, NAME)) == 2


def _open_and_report(folder: Path, reports: multiprocessing.Queue) -> None:
    reports.put(code_of(start, folder))


def test_a_folder_in_use_is_refused_to_another_process_and_to_this_one(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with open_state(folder, NAME, ("ed25519",)):
        assert code_of(start, folder) == "witness_state_in_use"
        reports = context.Queue()
        other = context.Process(target=_open_and_report, args=(folder, reports))
        other.start()
        assert reports.get(timeout=30) == "witness_state_in_use"
        other.join()
    assert start(folder)


def test_a_folder_that_others_may_write_or_own_is_refused(folder: Path) -> None:
    start(folder)
    folder.chmod(0o770)
    assert code_of(start, folder) == "witness_folder_unsafe"


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert code_of(start, tmp_path / "file" / "state") == "witness_state_unavailable"


def test_the_memory_of_another_witness_is_refused(folder: Path) -> None:
    start(folder)
    assert code_of(start, folder, "witness.example/w2") == "witness_name_changed"


def test_keys_without_a_memory_are_refused(folder: Path) -> None:
    cosign(folder, 5)
    (folder / "state").unlink()
    assert code_of(start, folder) == "witness_state_missing"


def test_a_memory_that_cannot_be_read_is_refused(folder: Path) -> None:
    start(folder)
    (folder / "state").unlink()
    (folder / "state").mkdir()
    assert code_of(start, folder) == "witness_state_unavailable"


@pytest.mark.parametrize("keep", [0, 1, 64, 65, 100])
def test_a_memory_cut_short_is_refused(folder: Path, keep: int) -> None:
    cosign(folder, 5)
    data = (folder / "state").read_bytes()
    (folder / "state").write_bytes(data[:keep])
    assert code_of(start, folder) == "witness_state_corrupt"


def test_a_memory_put_back_from_an_older_copy_is_refused(folder: Path) -> None:
    cosign(folder, 5)
    old = (folder / "state").read_bytes()
    cosign(folder, 9)
    (folder / "state").write_bytes(old)
    assert code_of(start, folder) == "witness_state_rolled_back"


def test_a_memory_emptied_by_hand_is_refused(folder: Path) -> None:
    cosign(folder, 5)
    (folder / "state").write_bytes(Memory(NAME).encode())
    assert code_of(start, folder) == "witness_state_rolled_back"


def test_another_root_for_the_remembered_size_is_refused(folder: Path) -> None:
    cosign(folder, 5)
    (folder / "state").write_bytes(Memory(NAME, NOW, {ORIGIN: Head(5, bytes(32))}).encode())
    assert code_of(start, folder) == "witness_state_rolled_back"


def test_a_cosigned_checkpoint_behind_the_memory_is_what_a_power_cut_leaves(folder: Path) -> None:
    cosign(folder, 5)
    path = folder / "checkpoints" / hash_origin(ORIGIN)
    old = path.read_bytes()
    cosign(folder, 9)
    path.write_bytes(old)
    assert start(folder).heads[ORIGIN].size == 9


@pytest.mark.parametrize("data", [b"", b"nothing", TREE.note(5)[:-3]])
def test_a_cosigned_checkpoint_that_is_none_is_refused(folder: Path, data: bytes) -> None:
    cosign(folder, 5)
    (folder / "checkpoints" / hash_origin(ORIGIN)).write_bytes(data)
    assert code_of(start, folder) == "witness_state_corrupt"


def test_a_forged_cosignature_in_the_folder_is_refused(folder: Path) -> None:
    cosign(folder, 5)
    path = folder / "checkpoints" / hash_origin(ORIGIN)
    note = parse_signed_checkpoint(path.read_bytes()).note
    path.write_bytes(note.encode().replace(b"\n5\n", b"\n6\n"))
    assert code_of(start, folder) == "witness_state_corrupt"


def test_checkpoints_that_others_put_there_decide_nothing(folder: Path) -> None:
    cosign(folder, 5)
    (folder / "checkpoints" / ("0" * 64)).write_bytes(TREE.note(20))
    (folder / "checkpoints" / "readme").write_bytes(b"notes")
    assert start(folder).heads[ORIGIN].size == 5


def test_a_rest_of_an_interrupted_write_does_not_count(folder: Path) -> None:
    cosign(folder, 5)
    (folder / "state.new").write_bytes(b"half")
    assert start(folder).heads[ORIGIN].size == 5
    cosign(folder, 6)
    assert start(folder).heads[ORIGIN].size == 6


def test_a_key_that_others_may_use_is_refused(folder: Path) -> None:
    start(folder)
    key_path(folder, "ed25519").chmod(0o640)
    assert code_of(start, folder) == "witness_key_exposed"


def test_a_key_of_another_algorithm_or_none_is_refused(folder: Path) -> None:
    start(folder, algorithms=ALGORITHMS)
    shutil.copy(key_path(folder, "ml-dsa-44"), key_path(folder, "ed25519"))
    assert code_of(start, folder) == "witness_key_malformed"
    key_path(folder, "ed25519").write_bytes(b"no key")
    assert code_of(start, folder) == "witness_key_malformed"


def test_a_key_behind_a_symlink_is_refused(folder: Path) -> None:
    start(folder)
    path = key_path(folder, "ed25519")
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")
    assert code_of(start, folder) == "witness_key_unreadable"


def test_a_folder_without_keys_says_how_to_make_them(tmp_path: Path) -> None:
    assert code_of(load_signers, tmp_path, NAME) == "witness_key_missing"


def test_keys_that_cannot_be_made_are_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise UnsupportedAlgorithm("no ML-DSA")

    assert code_of(make_keys, tmp_path / "absent", ["ed25519"]) == "witness_key_unwritable"
    monkeypatch.setattr(keys, "_MAKERS", {"ml-dsa-44": absent})
    assert code_of(make_keys, tmp_path, ["ml-dsa-44"]) == "witness_algorithm_unavailable"


def accepted(state: WitnessState, old: int, new: int):
    return decide(TREE.request(old, new), LOGS, state.memory.heads)


def test_a_decision_that_was_overtaken_is_not_kept(folder: Path) -> None:
    with open_state(folder, NAME, ("ed25519",)) as state:
        first, second = accepted(state, 0, 5), accepted(state, 0, 6)
        state.advance(second, NOW, TREE.note(6))
        with pytest.raises(BugError):
            state.advance(first, NOW, TREE.note(5))
        assert state.memory.heads[ORIGIN].size == 6


def test_a_full_disk_leaves_memory_and_file_as_they_were(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_state(folder, NAME, ("ed25519",)) as state:
        cosigner = Cosigner(state, LOGS, now=lambda: NOW)
        cosigner.add_checkpoint(TREE.request(0, 5).encode())
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", _fail)
            assert code_of(cosigner.add_checkpoint, TREE.request(5, 6).encode()) == "witness_state_unwritable"
        assert state.memory.heads[ORIGIN].size == 5
        cosigner.add_checkpoint(TREE.request(5, 7).encode())
    assert start(folder).heads[ORIGIN].size == 7


def test_when_it_is_not_known_which_state_is_on_disk_nothing_is_cosigned_until_a_restart(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_state(folder, NAME, ("ed25519",)) as state:
        cosigner = Cosigner(state, LOGS, now=lambda: NOW)
        with monkeypatch.context() as patched:
            patched.setattr(files, "sync_folder", _fail)
            assert code_of(cosigner.add_checkpoint, TREE.request(0, 5).encode()) == "witness_state_unwritable"
        assert code_of(cosigner.add_checkpoint, TREE.request(0, 5).encode()) == "witness_state_unwritable"
    assert start(folder).heads[ORIGIN].size == 5


def _fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_tree_is_on_disk_before_its_cosignature_is_given_away(folder: Path) -> None:
    with open_state(folder, NAME, ALGORITHMS) as state:
        cosigner = Cosigner(state, LOGS, now=lambda: NOW)
        checkpoint, lines = cosigner.add_checkpoint(TREE.request(0, 5).encode())
        assert parse_memory((folder / "state").read_bytes()).heads[ORIGIN] == Head(5, checkpoint.root)
        note = cosigner.checkpoint(hash_origin(ORIGIN))
        assert note is not None
        assert note.endswith(lines)
        assert len(lines.splitlines()) == 2
        assert cosigner.checkpoint("0" * 64) is None


def test_the_same_tree_again_is_cosigned_again_and_written_no_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_state(folder, NAME, ("ed25519",)) as state:
        times = iter([NOW, NOW + 7])
        cosigner = Cosigner(state, LOGS, now=lambda: next(times))
        _, first = cosigner.add_checkpoint(TREE.request(0, 5).encode())
        monkeypatch.setattr(os, "fsync", _fail)
        _, second = cosigner.add_checkpoint(TREE.request(5, 5).encode())
        assert first != second


def test_an_empty_log_is_remembered_too(folder: Path) -> None:
    with open_state(folder, NAME, ("ed25519",)) as state:
        Cosigner(state, LOGS, now=lambda: NOW).add_checkpoint(MemoryLog().request(0).encode())
        assert state.note(hash_origin(ORIGIN)) is not None
        assert state.memory.heads[ORIGIN].size == 0


def test_times_never_go_back_and_a_clock_far_behind_stops_cosigning(folder: Path) -> None:
    with open_state(folder, NAME, ("ed25519",)) as state:
        now = [NOW]
        cosigner = Cosigner(state, LOGS, now=lambda: now[0])
        cosigner.add_checkpoint(TREE.request(0, 5).encode())
        now[0] = NOW - CLOCK_STEP_S
        cosigner.add_checkpoint(TREE.request(5, 6).encode())
        assert state.memory.at == NOW
        now[0] = NOW - CLOCK_STEP_S - 1
        assert code_of(cosigner.add_checkpoint, TREE.request(6, 7).encode()) == "witness_clock"
        assert state.memory.heads[ORIGIN].size == 6


def test_a_clock_that_was_never_set_stops_cosigning(folder: Path) -> None:
    with open_state(folder, NAME, ("ed25519",)) as state:
        with pytest.raises(UnavailableError):
            Cosigner(state, LOGS, now=lambda: EARLIEST - 1).add_checkpoint(TREE.request(0, 5).encode())
        assert Cosigner(state, LOGS, now=lambda: EARLIEST).add_checkpoint(TREE.request(0, 5).encode())


def test_a_cosignature_of_its_own_that_it_does_not_remember_stops_a_witness(folder: Path) -> None:
    cosign(folder, 5)
    shutil.copytree(folder, folder.with_name("copy"))
    cosign(folder, 9)
    with open_state(folder, NAME, ("ed25519",)) as state:
        note = state.note(hash_origin(ORIGIN))
    assert note is not None
    with open_state(folder.with_name("copy"), NAME, ("ed25519",)) as state:
        cosigner = Cosigner(state, LOGS, now=lambda: NOW)
        request = TREE.request(5, 9)
        carried = type(request)(5, request.proof, note)
        with pytest.raises(InvalidError) as caught:
            cosigner.add_checkpoint(carried.encode())
        assert caught.value.code == "witness_state_rolled_back"
        assert state.memory.heads[ORIGIN].size == 5


def test_a_forged_cosignature_in_a_request_is_ignored(folder: Path) -> None:
    with open_state(folder, NAME, ("ed25519",)) as state:
        (own,) = state.signers
        cosigner = Cosigner(state, LOGS, now=lambda: NOW)
        forged = cosigned(TREE.note(5), TREE.checkpoint(6), [(own, NOW)])
        cosigner.add_checkpoint(type(TREE.request(0, 5))(0, (), forged).encode())
        kept = state.note(hash_origin(ORIGIN))
        assert kept is not None
        assert len(parse_signed_checkpoint(kept).note.signatures) == 2


def test_a_refused_checkpoint_leaves_no_trace(folder: Path) -> None:
    cosign(folder, 5)
    before = (folder / "state").read_bytes()
    with open_state(folder, NAME, ("ed25519",)) as state, pytest.raises(WitnessRefusalError):
        Cosigner(state, LOGS, now=lambda: NOW).add_checkpoint(MemoryLog.of(20, fork_at=2).request(5).encode())
    assert (folder / "state").read_bytes() == before
