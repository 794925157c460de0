"""Files of a witness that must survive a power cut, or must not be read by others.

Owns: replacing a file so that it is whole or the old one, and that it is there for good on return.
Does not own: what is in them (``keys``, ``state``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

SECRET_MODE: Final = 0o600
_TEMPORARY = ".new"


def write_durably(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` at once and for good; only the owner may read it.

    Raises:
        OSError: it could not be written; whether the old or the new file is there is not known.
    """
    put_in_place(write_beside(path, data), path)


def write_beside(path: Path, data: bytes) -> Path:
    """Put ``data`` on disk in a file beside ``path``, which is given back; ``path`` itself is as before.

    Raises:
        OSError: it could not be written.
    """
    temporary = path.with_name(path.name + _TEMPORARY)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, SECRET_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def put_in_place(written: Path, path: Path) -> None:
    """Let ``path`` name what ``written`` is, for good.

    Raises:
        OSError: it could not be done; which of the two files is there is not known.
    """
    written.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
