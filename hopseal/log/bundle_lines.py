"""An evidence bundle read a line at a time, as far as it is written the way this project writes one.

Owns: finding the lines of statements and proofs without reading them, and reading one when it is asked for; so several
processes can each read their own share of a file that all of them hold once. Does not own: the form (``bundle``).
Theory: no string of JSON has a line break in it. So each line between ``"statements":[`` and ``],`` holds whole
elements, and each between ``"proofs":{`` and ``},`` whole members; and what is left of the file without them has the
same meaning with these two empty, and is read by the one reader there is. A line that departs in any way says so, and
then the general reader reads the whole file and decides: this one only ever accepts what that one would, as the same.
Security: a file counts as read only after ``check_rest``: until then nobody has looked at the lines nobody asked for.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar, overload

from hopseal.custody.encoding import parse_json_object
from hopseal.custody.errors import CustodyError
from hopseal.limits import MAX_INTEGER
from hopseal.log.bundle import (
    MAX_ARTIFACTS,
    MAX_PROOF_BYTES,
    MAX_PROOFS,
    MAX_SEALED_BYTES,
    MAX_STATEMENTS,
    EvidenceBundle,
    LoggedStatement,
    Seen,
    check_digest,
    read_logged_statement,
    read_parts,
    read_proof_map,
)
from hopseal.log.entries import Direction

T = TypeVar("T")
_STATEMENTS = b'\n"statements":[\n', b'],\n"certs":['  # what stands before their lines, and behind
_PROOFS = b'\n"proofs":{\n', b'},\n"policy":'
_COMMA = ord(",")
_DIRECTIONS = {str(each): each for each in Direction}
_SEALED = '{"sealed":"'
_PLACE = r'\{"origin":"([^"\\\x00-\x1f]{1,128})","index":(0|[1-9][0-9]{0,15}),"dir":"(sent|received)"\}'
_SEEN = re.compile(rf'","seen":\[{_PLACE}(?:,{_PLACE})?\]\}}')


class DepartsError(Exception):
    """A file is not as this project writes it; it may still be evidence, so it is read as a whole."""


class StatementLines(Sequence[LoggedStatement]):
    """The statements of a file, each read when it is asked for.

    Args:
        data: the file.
        starts: where their lines start, and where the line after the last one would.
    """

    def __init__(self, data: bytes, starts: array[int]) -> None:
        self._data = data
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> LoggedStatement: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LoggedStatement]: ...
    def __getitem__(self, index: int | slice) -> LoggedStatement | Sequence[LoggedStatement]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return _read_statement(self._data[self._starts[number] : self._starts[number + 1] - len(b",\n")])

    def read(self, positions: Sequence[int]) -> list[LoggedStatement]:
        """Those at ``positions``, which ascend.

        Raises:
            DepartsError: they are not in order, or one is there twice.
        """
        read = [self[position] for position in positions]
        is_sorted = all(_is_before(each, later) for each, later in pairwise(read))
        if not is_sorted or len({each.sealed for each in read}) < len(read):
            raise DepartsError
        return read

    def place(self, position: int) -> int:
        """``position`` itself."""
        return position

    def payloads(self) -> Iterator[bytes]:
        """What stands before the first dot of each sealed text; unread, and only to divide the work by."""
        data = self._data
        for start in self._starts[:-1]:
            yield data[start + len(_SEALED) : data.find(b".", start)]


class ProofLines(Mapping[str, tuple[str, ...]]):
    """The proofs of a file, each read when it is asked for.

    Args:
        data: the file.
        places: where the member with each key starts and ends.
    """

    def __init__(self, data: bytes, places: Mapping[str, tuple[int, int]]) -> None:
        self._data = data
        self._places = places
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> tuple[str, ...]:
        start, end = self._places[key]
        try:
            members = read_proof_map(
                parse_json_object(b"{%b}" % self._data[start:end], max_depth=None), "bundle.proofs"
            )
        except CustodyError as error:
            raise DepartsError from error
        if members.keys() != {key}:
            raise DepartsError
        self._read.add(key)
        return members[key]

    @overload
    def get(self, key: str, default: None = None) -> tuple[str, ...] | None: ...
    @overload
    def get(self, key: str, default: tuple[str, ...] | T) -> tuple[str, ...] | T: ...
    def get(self, key: str, default: tuple[str, ...] | T | None = None) -> tuple[str, ...] | T | None:
        """Those of the entry with ``key``."""
        return self[key] if key in self._places else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def texts(self, key: str) -> list[bytes]:
        """The texts of the member with ``key`` as they stand in the file, if it has the form of one; else none.

        Whoever finds that every one is a proof as it stands calls ``note_read``; anybody else reads the member.
        """
        start, end = self._places.get(key, (0, 0))
        member = self._data[start:end]
        head = f'"{key}":["'.encode()
        texts = []
        at = len(head) if member.startswith(head) else end
        while (quote := member.find(b'"', at)) >= 0:
            texts.append(member[at:quote])
            at = quote + len('","')
            if member[quote:at] != b'","':
                break
        is_whole = member[quote:] == b'"]' and len(texts) <= MAX_PROOFS and max(map(len, texts)) <= MAX_PROOF_BYTES
        return texts if is_whole else []

    def take_read(self) -> set[str]:
        """Keys of those that were read since this was asked last: what a process did for another."""
        read, self._read = self._read, set()
        return read

    def note_read(self, keys: set[str]) -> None:
        """Those with ``keys`` were read elsewhere."""
        self._read |= keys

    def check_rest(self) -> None:
        """Read those that were not.

        Raises:
            DepartsError: one is not as it is written.
        """
        for key in self._places.keys() - self._read:
            self[key]


def read_lines(data: bytes) -> EvidenceBundle:
    """The bundle in a file, whose statements and proofs are :class:`StatementLines` and :class:`ProofLines`.

    Raises:
        EvidenceError: it is too large, or its digest does not fit.
        DepartsError: it is not as this project writes it. So may any statement, and any proof, when it is asked for.
    """
    check_digest(data)
    statements_start, statements_end = _section(data, 0, *_STATEMENTS)
    proofs_start, proofs_end = _section(data, statements_end, *_PROOFS)
    rest = data[:statements_start] + data[statements_end:proofs_start] + data[proofs_end:]
    try:
        bundle = read_parts(parse_json_object(rest, max_depth=None))
    except CustodyError as error:
        raise DepartsError from error
    return replace(
        bundle,
        statements=StatementLines(data, _statement_starts(data, statements_start, statements_end)),
        proofs=ProofLines(data, _proof_places(data, proofs_start, proofs_end)),
    )


def _section(data: bytes, start: int, before: bytes, after: bytes) -> tuple[int, int]:
    """Where the lines between ``before`` and ``after`` start and end."""
    found = data.find(before, start)
    end = data.find(after, found)
    if found < 0 or end < 0:
        raise DepartsError
    return found + len(before), end


def _statement_starts(data: bytes, start: int, end: int) -> array[int]:
    starts = array("Q", (start,))
    while (line_end := data.find(b"\n", starts[-1], end)) >= 0:
        if data[line_end - 1] != _COMMA:
            raise DepartsError
        starts.append(line_end + 1)
    starts.append(end + len(b",\n"))
    if len(starts) > MAX_STATEMENTS + 1:
        raise DepartsError
    return starts


def _proof_places(data: bytes, start: int, end: int) -> dict[str, tuple[int, int]]:
    """By the text of each member's name, which is its key if nothing is escaped in it: where the member is."""
    places: dict[str, tuple[int, int]] = {}
    count = 0
    while start < end:
        line_end = data.find(b"\n", start, end)
        line_end = end if line_end < 0 else line_end
        places[data[start + 1 : data.find(b'"', start + 1)].decode("utf-8", "replace")] = start, line_end
        count += 1
        start = line_end + len(b"\n,")
        if line_end < end and data[start - 1] != _COMMA:
            raise DepartsError
    if count != len(places) or count > MAX_STATEMENTS + MAX_ARTIFACTS:
        raise DepartsError
    return places


def _read_statement(line: bytes) -> LoggedStatement:
    try:
        text = line.decode()
        end = text.find('"', len(_SEALED))
        sealed, found = text[len(_SEALED) : end], _SEEN.fullmatch(text, end)
        if found is None or not text.startswith(_SEALED) or not _is_plain(sealed):
            return _ordered(read_logged_statement(parse_json_object(line, max_depth=None), "bundle.statements[]"))
    except (UnicodeDecodeError, CustodyError) as error:
        raise DepartsError from error
    first, second = found.group(1, 2, 3), found.group(4, 5, 6)
    if second[0] is None:
        return LoggedStatement(sealed, (_seen(*first),))
    return _ordered(LoggedStatement(sealed, (_seen(*first), _seen(*second))))


def _is_plain(text: str) -> bool:
    """Whether ``text`` stands for itself between the quotes of a JSON string, and is within the bounds."""
    return 4 * len(text) <= MAX_SEALED_BYTES and "\\" not in text and text.isprintable()


def _is_before(one: LoggedStatement, other: LoggedStatement) -> bool:
    if one.seen and other.seen and one.seen[0].origin == other.seen[0].origin:
        first, second = one.seen[0].index, other.seen[0].index
        if first != second:  # as most are; it is less work to tell
            return first < second
    return (one.seen, one.sealed) < (other.seen, other.sealed)


def _ordered(statement: LoggedStatement) -> LoggedStatement:
    if any(later <= each for each, later in pairwise(statement.seen)):
        raise DepartsError
    return statement


def _seen(origin: str, index: str, direction: str) -> Seen:
    number = int(index)
    if number > MAX_INTEGER:
        raise DepartsError
    return Seen(_same(origin), number, _DIRECTIONS[direction])


@lru_cache(maxsize=1024)
def _same(origin: str) -> str:
    """One text for all places in a log, of which a file has many."""
    return origin
