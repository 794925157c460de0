"""What a refused message has to leave behind: its code, nothing at the component, and an entry that says so.

An entry says so when the log reads as refused and when its leaf in the tree is of type ``refused``, because then it
can never pass for a logged statement.
Source: custody-wire §10 "Types that are no statement".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataplane_nodes import TRUST_DOMAIN, Component, Node
from dataplane_peer import send
from hopseal.log.entries import Direction, LogEntry, RecordEntry, StatementEntry, read_payload
from hopseal.log.leaf import leaf_of_artifact, leaf_of_line
from hopseal.log.reader import read_log
from hopseal.svid import X509Svid
from svid_authority import Authority

Statement = RecordEntry | StatementEntry


def statements_in(folder: Path) -> list[Statement]:
    """Records and statements about them in the journal in ``folder``, each with the leaf that its verdict asks for."""
    journal = (folder / "custody.log").read_bytes()
    journal = journal[: journal.rfind(b"\n") + 1]  # a line may be under way
    contents = read_log(journal)
    assert not contents.damage
    return [entry for entry in _with_right_leaves(journal, contents.entries) if isinstance(entry, Statement)]


def refusals_in(folder: Path) -> list[Statement]:
    return [entry for entry in statements_in(folder) if not entry.accepted]


def _with_right_leaves(journal: bytes, entries: tuple[LogEntry, ...]) -> Iterator[LogEntry]:
    for line, entry in zip(journal.splitlines(), entries, strict=True):
        if isinstance(entry, Statement):
            text = read_payload(line)
            assert (leaf_of_line(text) == leaf_of_artifact("refused", text)) is not entry.accepted
        yield entry


def _is_answer(entry: Statement) -> bool:
    return isinstance(entry, StatementEntry) and entry.direction is Direction.SENT


@contextmanager
def refused_in(folder: Path, *codes: str) -> Iterator[list[Statement]]:
    """Within, the log in ``folder`` gets refusals with ``codes`` and accepts nothing; the list has them afterwards.

    The receipt of a refusal is no acceptance: it is what the refused one is told.
    """
    before = len(statements_in(folder))
    found: list[Statement] = []
    yield found
    found += [entry for entry in statements_in(folder)[before:] if not _is_answer(entry)]
    verdicts = [(entry.accepted, entry.code, entry.detail) for entry in found]
    assert [each[:2] for each in verdicts] == [(False, code) for code in codes], verdicts


@dataclass
class Guarded:
    """A running node and the component behind its peer port."""

    node: Node
    component: Component

    def accepts(self, svid: X509Svid, data: bytes) -> None:
        reached = len(self.component.seen)
        got = send(self.node.port, svid, data)
        assert got is not None
        assert (got.status, len(self.component.seen)) == (200, reached + 1), got

    def refuses(self, svid: X509Svid, data: bytes, code: str) -> RecordEntry:
        """The message is answered with ``code``, does not arrive, and stands in the log as a refused record."""
        reached = len(self.component.seen)
        with refused_in(self.node.log_dir, code) as found:
            got = send(self.node.port, svid, data)
        (entry,) = found
        assert got is not None
        assert got.code == code, (got.code, entry)
        assert len(self.component.seen) == reached
        self.node.wait_for_call(direction="in", code=code)
        assert isinstance(entry, RecordEntry)
        return entry

    def cuts_off(self, svid: X509Svid | None, data: bytes) -> None:
        """The handshake fails: there is nobody yet whose attempt a log could hold."""
        reached, before = len(self.component.seen), len(statements_in(self.node.log_dir))
        assert send(self.node.port, svid, data) is None
        assert (len(self.component.seen), len(statements_in(self.node.log_dir))) == (reached, before)


@contextmanager
def guarding(folder: Path) -> Iterator[Guarded]:
    """A running node with the tool behind its peer port."""
    path = folder / "tool.sock"
    with Component(path) as tool:
        settings = {"worker_threads": 2}
        node = Node(folder / "n", Authority(TRUST_DOMAIN), None, {"tool": path}, settings).start()
        try:
            yield Guarded(node, tool)
        finally:
            node.stop()
