"""Reading Agent documents from a folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hopseal.documents.model import DocumentSet
from hopseal.documents.parse import MAX_DOCUMENT_BYTES, parse_documents
from hopseal.errors import UnavailableError
from hopseal.ids import TrustDomain

SUFFIXES = (".yaml", ".yml")


def load_documents(folder: Path, trust_domain: TrustDomain) -> DocumentSet:
    """The documents in ``folder``: every file that ends in .yaml or .yml, not below, no dot files.

    Raises:
        DocumentsInvalidError: with every mistake of every file.
        UnavailableError: the folder or a file cannot be read (code ``documents_unreadable``).
    """
    return parse_documents(read_folder(folder), trust_domain)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Name and content of every document file in ``folder``, at most one byte over the bound each.

    Raises:
        UnavailableError: the folder or a file cannot be read (code ``documents_unreadable``).
    """
    found: dict[str, bytes] = {}
    path = folder
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix in SUFFIXES and not path.name.startswith("."):
                found[path.name] = _read_file(path)
    except OSError as error:
        raise UnavailableError(
            "documents_unreadable",
            f"{path}: {error.strerror or error}",
            remedy="make it a folder of readable files, one document each, or name another (--documents for commands)",
        ) from error
    return found


def _read_file(path: Path) -> bytes:
    # Not blocking: a named pipe in the folder must not stop the daemon.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file")
        return file.read(MAX_DOCUMENT_BYTES + 1)
