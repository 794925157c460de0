"""Running as several users from an installation that only one of them can read.

Owns: a private mount namespace in which the interpreter and the checkout stand, read-only, where every
user reaches them. Does not own: what runs there. Nothing of it outlives the process, and the mount
points lie in a folder that is only ever removed while it is empty.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hopseal.cli.local_node import library_folder
from hopseal.cli.node_plan import is_reachable_by_others

ROOT = Path(__file__).resolve().parent.parent
_CLONE_NEWNS = 0x00020000  # unshare(2)
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000  # mount(2)
_PR_SET_PDEATHSIG = 1  # prctl(2)


def needs_view() -> bool:
    """Whether other users cannot read this interpreter or what it imports."""
    paths = [Path(sys.executable), Path(sys.base_prefix), ROOT, *(Path(entry) for entry in sys.path if entry)]
    return not all(is_reachable_by_others(path) for path in paths)


def run_in_view(arguments: list[str], extra: Mapping[str, str]) -> int:
    """The exit code of ``python ARGUMENTS`` with interpreter and checkout reachable by every user.

    Args:
        arguments: of the interpreter.
        extra: environment variables to add.
    """
    folder = Path(tempfile.mkdtemp(prefix="hopseal-view-"))
    folder.chmod(0o755)
    mounts = {Path(sys.base_prefix): folder / "python", ROOT: folder / "checkout"}
    for target in mounts.values():
        target.mkdir()
    try:
        process = subprocess.Popen(
            [str(_moved(Path(sys.executable).resolve(), mounts)), *arguments],
            env={**os.environ, **_import_paths(mounts), **extra},
            cwd="/",
            preexec_fn=lambda: _enter(mounts),  # noqa: PLW1509 - system calls only, and no thread is running yet
        )
        return _wait(process)
    finally:
        for target in mounts.values():
            target.rmdir()
        folder.rmdir()


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The child cleans up after an interrupt, which the terminal sends to both."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _import_paths(mounts: Mapping[Path, Path]) -> dict[str, str]:
    paths = [_moved(Path(entry).resolve(), mounts) for entry in sys.path if entry and Path(entry).is_dir()]
    libraries = library_folder()
    return {
        "PYTHONPATH": os.pathsep.join(map(str, dict.fromkeys(paths))),
        "PYTHONHOME": str(mounts[Path(sys.base_prefix)]),
        **({} if libraries is None else {"LD_LIBRARY_PATH": str(_moved(libraries.resolve(), mounts))}),
    }


def _moved(path: Path, mounts: Mapping[Path, Path]) -> Path:
    for source, target in mounts.items():
        if path.is_relative_to(source.resolve()):
            return target / path.relative_to(source.resolve())
    return path


def _enter(mounts: Mapping[Path, Path]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _check(libc.unshare(_CLONE_NEWNS))
    _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    for source, target in mounts.items():
        _check(libc.mount(os.fsencode(source.resolve()), os.fsencode(target), None, _MS_BIND, None))
        _check(libc.mount(None, os.fsencode(target), None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY, None))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
