"""The policies in force: compiled from the documents, and from the operators' and administrators' files.

Owns: following documents, files and evidence, and handing one whole value of them to the data plane.
Does not own: compiling (``compile``), reading files (``files``), judging them (the data plane).

Security: what is bad never takes effect and never removes what was in force; the documents' part goes on being renewed
beside the last good files. As long as the files were never good, nothing is set and the data plane denies every call:
one that forbids may be among them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from broker.dataplane_api import DataPlane
from broker.policy.config import PolicyConfig
from broker.policy.facts import encode_facts
from broker.policy.files import PolicyFiles, read_files, signature
from broker.policy.sets import PolicySet, document_sets, encode_sets, unknown_sets
from hopseal.documents.model import DocumentSet
from hopseal.errors import InvalidError

# An open call ends within a second of the change that forbids it; most of that is for noticing.
RELOAD_S = 0.25
# Half of a file can be valid, and lack what it forbids: files are read once they have kept still for so long.
SETTLE_S = 0.1

log = structlog.get_logger("broker.policy")


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The policies in force.

    Args:
        sha256: over their text; empty as long as none are, and every call is denied.
        files: names of the sets that come from files.
        observe: sets whose denials are only told.
        problems: why newer ones are not in force.
        loaded_at: epoch seconds; None as long as none are.
        refused: how often newer ones were refused since the start.
    """

    sha256: str = ""
    files: tuple[str, ...] = ()
    observe: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    loaded_at: float | None = None
    refused: int = 0


class PolicyFollower:
    """Keeps the data plane's policies in step with documents, files and evidence.

    Args:
        config: where policies come from.
        data_plane: validates and evaluates them.
    """

    def __init__(self, config: PolicyConfig, data_plane: DataPlane) -> None:
        self._config = config
        self._data_plane = data_plane
        self._documents: DocumentSet | None = None
        self._has_files = any((config.folder, config.admin_folder, config.location, config.threat))
        self._good: PolicyFiles | None = None if self._has_files else PolicyFiles()
        self._seen: tuple[object, ...] | None = None
        self._file_problems: tuple[str, ...] = ()
        self._evidence: Mapping[str, Mapping[str, Any]] = {}
        self._lock = asyncio.Lock()
        self.state = PolicyState(observe=config.observe)

    async def run(self) -> None:
        """Follow the files for ever."""
        while self._has_files:
            await self.reload()
            await asyncio.sleep(RELOAD_S)

    async def set_documents(self, documents: DocumentSet) -> None:
        """Compile ``documents`` and put the set in force."""
        async with self._lock:
            self._documents = documents
            if self._good is not None:
                await self._apply(self._good)
            elif self._seen is not None:
                await self._load()

    async def set_evidence(self, evidence: Mapping[str, Mapping[str, Any]]) -> None:
        """Take what the attestor measured: SPIFFE ID to ``measured_at`` and ``posture``."""
        async with self._lock:
            if evidence == self._evidence:
                return
            self._evidence = evidence
            if self.state.sha256 and self._documents is not None and self._good is not None:
                await asyncio.to_thread(self._put_facts, self._documents, self._good)

    async def reload(self) -> None:
        """Read the files if any of them changed and all keep still; good ones are put in force."""
        seen = await asyncio.to_thread(signature, self._config)
        if seen == self._seen:
            return
        await asyncio.sleep(SETTLE_S)
        async with self._lock:
            if await asyncio.to_thread(signature, self._config) != seen:
                return
            self._seen = seen
            await self._load()

    async def _load(self) -> None:
        try:
            files = await asyncio.to_thread(read_files, self._config)
        except InvalidError as error:
            self._refuse(tuple(error.detail.splitlines()))
            return
        if await asyncio.to_thread(signature, self._config) != self._seen:
            self._seen = None  # changed while it was read: the next look reads it again
        elif self._documents is not None:
            await self._apply(files)

    async def _apply(self, files: PolicyFiles) -> None:
        documents = self._documents
        if documents is None:
            return
        sets = (*document_sets(documents), *files.sets)
        try:
            digest = await asyncio.to_thread(self._put, sets, documents, files)
        except InvalidError as error:
            self._refuse(tuple(error.detail.splitlines()))
            return
        if files is not self._good:
            self._good, self._file_problems = files, ()
        if digest != self.state.sha256:
            log.info("policies_loaded", sha256=digest, files=list(files.names), observe=list(self._config.observe))
        unknown = (f"observe: there is no policy set {name}" for name in unknown_sets(sets, self._config.observe))
        problems = (*self._file_problems, *unknown)
        self.state = replace(self.state, sha256=digest, files=files.names, problems=problems, loaded_at=time.time())

    def _put(self, sets: tuple[PolicySet, ...], documents: DocumentSet, files: PolicyFiles) -> str:
        """The digest of ``sets``, once they are in force."""
        text = encode_sets(sets, self._config.observe)
        try:
            self._data_plane.set_policy_sets(text, self._encode_facts(documents, files))
        except Exception as error:  # the binding's own exception type exists only where it is installed
            detail = str(error.args[1]) if len(error.args) == 2 else repr(error)
            raise InvalidError("policy_invalid", "the data plane refused the policies", detail=detail) from error
        return hashlib.sha256(text.encode()).hexdigest()

    def _put_facts(self, documents: DocumentSet, files: PolicyFiles) -> None:
        self._data_plane.set_policy_facts(self._encode_facts(documents, files))

    def _encode_facts(self, documents: DocumentSet, files: PolicyFiles) -> str:
        return encode_facts(documents, locations=files.locations, threats=files.threats, evidence=self._evidence)

    def _refuse(self, problems: tuple[str, ...]) -> None:
        if problems != self._file_problems:
            self._file_problems = problems
            for problem in problems:
                log.warning("policies_refused", problem=problem)
        self.state = replace(self.state, problems=problems, refused=self.state.refused + 1)
