"""Parsing a set of Agent documents, every mistake of all files in one run.

Owns: the order of the steps and the set's digest. Does not own: reading one document
(``hopseal.documents.read``) or what several get wrong together (``hopseal.documents.checks``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from hopseal.documents.checks import check_together
from hopseal.documents.model import DocumentSet, DocumentsInvalidError
from hopseal.documents.read import ReadDocument, read_document
from hopseal.ids import TrustDomain
from hopseal.mistakes import Mistake
from hopseal.settings import SettingsInvalidError

MAX_DOCUMENT_BYTES = 262_144
MAX_DOCUMENTS = 4096


def parse_documents(files: Mapping[str, bytes], trust_domain: TrustDomain) -> DocumentSet:
    """The documents in ``files``.

    Args:
        files: file name to content; each holds one document.
        trust_domain: whose SPIFFE IDs the components get.

    Raises:
        DocumentsInvalidError: with every mistake of every file.
    """
    mistakes: list[Mistake] = []
    documents: list[ReadDocument] = []
    if len(files) > MAX_DOCUMENTS:
        mistakes.append(Mistake(min(files), 1, f"more than {MAX_DOCUMENTS} documents", "remove retired agents"))
        raise _invalid(mistakes)
    for file in sorted(files):
        try:
            documents.append(_read(file, files[file], trust_domain))
        except SettingsInvalidError as error:
            mistakes.extend(error.mistakes)
    check_together(documents, all_readable=not mistakes)
    for document in documents:
        try:
            document.settings.finish()
        except SettingsInvalidError as error:
            mistakes.extend(error.mistakes)
    if mistakes:
        raise _invalid(mistakes)
    agents = sorted((document.agent for document in documents), key=lambda agent: agent.name)
    return DocumentSet(trust_domain, tuple(agents), documents_sha256(files))


def documents_sha256(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the sorted names and contents, lower-case hex; equal sets have equal digests."""
    digest = hashlib.sha256()
    for file in sorted(files):
        for part in (file.encode("utf-8", "surrogateescape"), files[file]):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _read(file: str, data: bytes, trust_domain: TrustDomain) -> ReadDocument:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise SettingsInvalidError((Mistake(file, 1, f"larger than {MAX_DOCUMENT_BYTES} bytes", "split the agent"),))
    return read_document(file, data, trust_domain)


def _invalid(mistakes: list[Mistake]) -> DocumentsInvalidError:
    return DocumentsInvalidError(tuple(sorted(set(mistakes))))
