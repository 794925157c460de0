"""The node's own decisions about agents: suspended, retired, resumed; kept across restarts.

Owns: the file of decisions. Does not own: the documents, which such a decision overrides
(``attestor.approved``), or making it effective (``attestor.effective``).

A decision wins over the document until ``resume`` takes it back; then the document's status holds again.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from hopseal.documents.model import AgentStatus
from hopseal.errors import InvalidError, UnavailableError

MAX_DECISIONS = 10_000
_MAX_BYTES = 1 << 20
_AGENT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_FORMAT = 1


class StatusStore:
    """Decisions by agent name, in ``<state_dir>/agents.json``.

    Raises:
        InvalidError: the file is not one of ours (``status_file_invalid``): refusing to start is safer than
            forgetting that an agent is suspended.
        UnavailableError: the folder or file cannot be read (``status_file_unavailable``).
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "agents.json"
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            data = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise _unavailable(self._path, error) from error
        self._decisions = _parse(self._path, data) if data else {}

    @property
    def decisions(self) -> Mapping[str, AgentStatus]:
        """What this node decided, by agent name."""
        return MappingProxyType(self._decisions)

    def decide(self, agent: str, status: AgentStatus | None) -> None:
        """Keep ``status`` for ``agent``, or with None leave it to the document; durable on return.

        Raises:
            UnavailableError: it cannot be written; nothing changed then (``status_file_unavailable``).
        """
        decisions = {name: kept for name, kept in self._decisions.items() if name != agent}
        if status is not None:
            decisions[agent] = status
        if len(decisions) > MAX_DECISIONS:
            raise UnavailableError(
                "status_file_full", f"more than {MAX_DECISIONS} decisions", remedy="resume some agents"
            )
        text = json.dumps({"format": _FORMAT, "agents": decisions}, sort_keys=True, indent=1)
        try:
            _write_durably(self._path, text.encode())
        except OSError as error:
            raise _unavailable(self._path, error) from error
        self._decisions = decisions


def _parse(path: Path, data: bytes) -> dict[str, AgentStatus]:
    try:
        document = json.loads(data[: _MAX_BYTES + 1])
        if document.keys() == {"format", "agents"} and document["format"] == _FORMAT:
            decisions = {name: AgentStatus(status) for name, status in document["agents"].items()}
            if all(map(_AGENT_NAME.fullmatch, decisions)):
                return decisions
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise _invalid(path) from error
    raise _invalid(path)


def _invalid(path: Path) -> InvalidError:
    return InvalidError(
        "status_file_invalid",
        f"{path} is not a file of status decisions",
        remedy="restore it, or remove it and suspend again what must be",
    )


def _write_durably(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".agents-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _unavailable(path: Path, error: OSError) -> UnavailableError:
    return UnavailableError(
        "status_file_unavailable",
        f"{path}: {error.strerror or error}",
        remedy="make the folder writable for the attestor",
    )
