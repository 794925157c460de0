"""The policies in force: compiled from the documents, and from a folder of Cedar files.

Owns: reading the folder, checking each file, handing one whole set to the data plane.
Does not own: compiling (``compile``) or the documents' reload.

Security: a bad file never takes effect and never removes what was in force; the documents' part goes
on being renewed beside the last good files. As long as the files were never good, nothing is set and
the data plane denies every call: a file that forbids may be among them.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

import structlog

from broker.dataplane_api import DataPlane
from broker.policy.compile import compile_entities, compile_policies
from broker.policy.schema import check_policies
from hopseal.documents.model import DocumentSet
from hopseal.errors import InvalidError

RELOAD_S = 1.0
MAX_FILES = 256
MAX_FILE_BYTES = 1_048_576

log = structlog.get_logger("broker.policy")

Files = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The policies in force.

    Args:
        sha256: over their text; empty as long as none are, and every call is denied.
        files: names of the operator's files among them.
        problems: why newer ones are not in force.
    """

    sha256: str = ""
    files: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class PolicyFollower:
    """Keeps the data plane's policies in step with documents and folder.

    Args:
        folder: holds ``*.cedar``; None for the documents' policies alone.
        data_plane: evaluates them.
    """

    def __init__(self, folder: Path | None, data_plane: DataPlane) -> None:
        self._folder = folder
        self._data_plane = data_plane
        self._documents: DocumentSet | None = None
        self._good: Files | None = () if folder is None else None
        self._seen: Files | None = None
        self._file_problems: tuple[str, ...] = ()
        self._lock = asyncio.Lock()
        self.state = PolicyState()

    async def run(self) -> None:
        """Follow the folder for ever."""
        while self._folder is not None:
            await self.reload()
            await asyncio.sleep(RELOAD_S)

    async def set_documents(self, documents: DocumentSet) -> None:
        """Compile ``documents`` and put the set in force."""
        async with self._lock:
            self._documents = documents
            await self._apply()

    async def reload(self) -> None:
        """Read the folder now; a changed and good one is put in force."""
        if self._folder is None:
            return
        async with self._lock:
            try:
                files = await asyncio.to_thread(_read_folder, self._folder)
                problems = () if files == self._seen else await asyncio.to_thread(_check_files, files)
            except InvalidError as error:
                self._note((error.message,))
                self._seen = None
                return
            if files == self._seen:
                return
            self._seen = files
            self._note(problems)
            if not problems:
                self._good = files
                await self._apply()

    async def _apply(self) -> None:
        if self._documents is None or self._good is None:
            return
        compiled = compile_policies(self._documents)
        text = "\n".join([compiled, *(data.decode("utf-8") for _, data in self._good)])
        digest = hashlib.sha256(text.encode()).hexdigest()
        try:
            await asyncio.to_thread(self._put, text, compiled, compile_entities(self._documents))
        except InvalidError as error:
            log.warning("policies_refused", problem=error.message)
            self.state = PolicyState(self.state.sha256, self.state.files, (*self._file_problems, error.message))
            return
        if digest != self.state.sha256:
            log.info("policies_loaded", sha256=digest, files=[name for name, _ in self._good])
        self.state = PolicyState(digest, tuple(name for name, _ in self._good), self._file_problems)

    def _put(self, text: str, compiled: str, entities: str) -> None:
        check_policies(compiled, name="the documents' policies")
        try:
            self._data_plane.set_policies(text, entities)
        except Exception as error:  # the binding's own exception type exists only where it is installed
            raise InvalidError("policy_invalid", f"the data plane refused the policies: {error}") from error

    def _note(self, problems: tuple[str, ...]) -> None:
        if problems != self._file_problems:
            self._file_problems = problems
            for problem in problems:
                log.warning("policy_file_refused", problem=problem)
        self.state = PolicyState(self.state.sha256, self.state.files, problems)


def _read_folder(folder: Path) -> Files:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".cedar" and not path.name.startswith("."))
        if len(paths) > MAX_FILES:
            raise InvalidError("policy_invalid", f"{folder}: more than {MAX_FILES} policy files")
        return tuple((path.name, _read_file(path)) for path in paths)
    except OSError as error:
        raise InvalidError(
            "policy_invalid",
            f"{error.filename or folder}: {error.strerror} (make it readable, or leave out `policies`)",
        ) from error


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InvalidError("policy_invalid", f"{path}: larger than {MAX_FILE_BYTES} bytes")
    return data


def _check_files(files: Files) -> tuple[str, ...]:
    problems = []
    for name, data in files:
        try:
            check_policies(data.decode("utf-8"), name=name)
        except UnicodeDecodeError:
            problems.append(f"{name}: not UTF-8")
        except InvalidError as error:
            problems.append(error.message)
    return tuple(problems)
