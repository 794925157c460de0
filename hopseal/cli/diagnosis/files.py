"""Owners and modes: who could change what the daemons trust, or read what they keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hopseal.cli.diagnosis.finding import Finding, look_at_mode
from hopseal.cli.diagnosis.settings import DaemonSettings

_WRITABLE_BY_OTHERS, _ANYTHING_BY_OTHERS, _ANYTHING_BY_STRANGERS = 0o022, 0o077, 0o007
_MAX_FILES = 1000


def check_files(config_files: tuple[Path, ...], documents: Path) -> Iterator[Finding]:
    """What decides who gets an identity must not be writable by others."""
    for file in config_files:
        if file.exists():
            yield look_at_mode("files.config", file, _WRITABLE_BY_OTHERS, 0o644)
    yield look_at_mode("files.documents", documents, _WRITABLE_BY_OTHERS, 0o755)
    for path in _entries(documents):
        if path.suffix in {".yaml", ".yml"}:
            yield look_at_mode("files.documents", path, _WRITABLE_BY_OTHERS, 0o644)


def check_state(attestor: DaemonSettings, broker: DaemonSettings) -> Iterator[Finding]:
    """State folders are private, and so are the keys in them."""
    folders = {
        "files.attestor_state": attestor.path("state_dir"),
        "files.authority": attestor.path("upstream", "state_dir"),
        "files.broker_state": broker.path("state_dir"),
    }
    for check, folder in folders.items():
        if folder is None:
            continue
        yield look_at_mode(check, folder, _ANYTHING_BY_OTHERS, 0o700)
        for path in _entries(folder):
            if path.is_file() and path.suffix in {".key", ".pem", ".json"}:
                yield look_at_mode(check, path, _ANYTHING_BY_OTHERS, 0o600)


def check_sockets(public: tuple[Path, ...], private: tuple[Path, ...]) -> Iterator[Finding]:
    """Who can connect, and who could put another socket in the place of one."""
    for path in public:
        if path.exists():
            yield look_at_mode("sockets.public", path, 0, 0o777, _lets_everybody_connect)
            yield look_at_mode("sockets.folder", path.parent, _WRITABLE_BY_OTHERS, 0o755, _lets_everybody_in)
    for path in private:
        if path.exists():
            yield look_at_mode("sockets.private", path, _ANYTHING_BY_STRANGERS, 0o660)
            yield look_at_mode("sockets.folder", path.parent, _WRITABLE_BY_OTHERS, 0o750)


def _lets_everybody_connect(mode: int) -> str:
    return "" if mode & 0o222 == 0o222 else "does not let every component connect"


def _lets_everybody_in(mode: int) -> str:
    return "" if mode & 0o111 == 0o111 else "does not let every component in"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:_MAX_FILES]
    except OSError:
        return []  # the finding about the folder itself says why
