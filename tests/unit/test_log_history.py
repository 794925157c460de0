"""The history of cosigned checkpoints, and the files of a journal, as text and names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopseal.log.history import BUCKET_S, PastCheckpoint, format_past_checkpoint, parse_history, thin
from hopseal.log.segments import format_closed_name, order_segments, parse_closed_name
from hopseal.log.tiles import Tile, TileError, cut_tile, encode_entries


def past(time: int, size: int) -> PastCheckpoint:
    return PastCheckpoint(time, size, f"origin\n{size}\n— name\n".encode())


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**50)), max_size=5))
def test_a_history_reads_back(values: list[tuple[int, int]]) -> None:
    history = tuple(past(*each) for each in values)
    assert parse_history(b"".join(map(format_past_checkpoint, history))) == history


@given(st.binary(max_size=60))
def test_junk_in_a_history_is_skipped(junk: bytes) -> None:
    line = format_past_checkpoint(past(1, 2))
    assert past(1, 2) in parse_history(junk.replace(b"{", b"(") + b"\n" + line)


def test_thinning_leaves_the_last_checkpoint_of_each_half_minute() -> None:
    history = [past(time, time) for time in (0, 1, 29, 30, 59, 95)]
    assert [each.time for each in thin(history)] == [29, 59, 95]
    assert thin(thin(history)) == thin(history)
    assert BUCKET_S == 30


def test_full_files_are_ordered_by_their_first_entry_and_the_growing_one_is_last() -> None:
    names = ["custody.log", format_closed_name(200), "custody.log.next", format_closed_name(9), "custody-7.log", "x"]
    assert order_segments(names) == (format_closed_name(9), format_closed_name(200), "custody.log")
    assert order_segments(names[1:]) == (format_closed_name(9), format_closed_name(200))


@pytest.mark.parametrize(
    "name", ["custody.log", "custody-1.log", "custody-" + "0" * 20, "custody-" + "0" * 20 + ".log\n"]
)
def test_other_names_are_no_full_files(name: str) -> None:
    assert parse_closed_name(name) is None
    assert parse_closed_name(format_closed_name(7)) == 7


def test_a_partial_tile_is_the_beginning_of_the_full_one() -> None:
    hashes = [bytes([n]) * 32 for n in range(256)]
    assert cut_tile(Tile(0, 0, 3), b"".join(hashes)) == b"".join(hashes[:3])
    assert cut_tile(Tile(None, 0, 3), encode_entries(hashes)) == encode_entries(hashes[:3])
    for level in (0, None):
        with pytest.raises(TileError):
            cut_tile(Tile(level, 0, 3), b"".join(hashes[:-1]))
