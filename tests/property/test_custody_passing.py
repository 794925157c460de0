"""Bodies that pass in pieces: however they are cut, they come to the same, or are refused alike."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hopseal.custody.binding import BodySum
from hopseal.custody.errors import CustodyError
from hopseal.custody.frames import FrameSum
from hopseal.custody.messages import MessageCounter

CUTS = st.lists(st.integers(0, 200), max_size=6).map(sorted)


def frame(first: int, payload: bytes, *, masked: bool) -> bytes:
    """One frame with a payload of at most 125 bytes; its mask is fixed."""
    mask = b"\x01\x80\xff\x00"
    if not masked:
        return bytes([first, len(payload)]) + payload
    return bytes([first, 0x80 | len(payload)]) + mask + bytes(
        byte ^ mask[at % len(mask)] for at, byte in enumerate(payload)
    )  # fmt: skip


FIRST_BYTES = st.sampled_from([0x01, 0x02, 0x80, 0x81, 0x82, 0x89, 0x8A, 0x88, 0x00, 0x83, 0xC1])
FRAMES = st.lists(st.tuples(FIRST_BYTES, st.binary(max_size=40)), max_size=6)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = [0, *(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


def summed(parts: list[bytes], *, masked: bool) -> tuple[BodySum, bool] | None:
    total = FrameSum(masked)
    try:
        for part in parts:
            total.update(part)
    except CustodyError:
        return None
    return total.sum(), total.is_closed


@given(FRAMES, st.binary(max_size=3), CUTS, st.booleans())
def test_frames_come_to_the_same_however_they_are_cut(
    frames: list[tuple[int, bytes]], tail: bytes, cuts: list[int], masked: bool
) -> None:
    data = b"".join(frame(first, payload, masked=masked) for first, payload in frames) + tail
    assert summed(pieces(data, cuts), masked=masked) == summed([data], masked=masked)


@given(st.binary(max_size=200), CUTS, st.booleans())
def test_bytes_that_may_be_no_frames_are_refused_alike(data: bytes, cuts: list[int], masked: bool) -> None:
    assert summed(pieces(data, cuts), masked=masked) == summed([data], masked=masked)


def counted(parts: list[bytes]) -> int | None:
    counter = MessageCounter()
    try:
        for part in parts:
            counter.update(part)
    except CustodyError:
        return None
    return counter.count


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=30)), max_size=6), st.binary(max_size=6), CUTS)
def test_messages_are_as_many_however_they_are_cut(
    messages: list[tuple[int, bytes]], tail: bytes, cuts: list[int]
) -> None:
    data = b"".join(bytes([flag]) + len(body).to_bytes(4) + body for flag, body in messages)
    assert counted(pieces(data + tail, cuts)) == counted([data + tail])
    whole = all(flag < 2 for flag, _ in messages)
    assert counted([data]) == (len(messages) if whole else None)
