"""The files that operators write: policies in two folders, and labels.

Owns: reading them, their bounds, whether anything changed. Does not own: what they say; the data plane checks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from broker.policy.config import PolicyConfig
from broker.policy.labels import Label, parse_labels
from broker.policy.sets import Layer, PolicySet
from hopseal.errors import HopsealError, InvalidError
from hopseal.settings import SettingsInvalidError
from hopseal.yaml_nodes import MAX_SETTINGS_BYTES

MAX_FILES = 256
MAX_FILE_BYTES = 4_194_304


@dataclass(frozen=True, slots=True)
class PolicyFiles:
    """What the files said at one moment."""

    sets: tuple[PolicySet, ...] = ()
    locations: tuple[Label, ...] = ()
    threats: tuple[Label, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sets."""
        return tuple(each.name for each in self.sets)


def read_files(config: PolicyConfig) -> PolicyFiles:
    """Everything that ``config`` names, read now.

    Raises:
        InvalidError: a file is unreadable, too large or no UTF-8, or labels have mistakes (``policy_invalid``); all of
            it is named in ``detail``, a line each.
    """
    problems: list[str] = []
    files = PolicyFiles(
        sets=(
            *_read_folder(config.folder, Layer.OPERATOR, "", problems),
            *_read_folder(config.admin_folder, Layer.ADMIN, "admin/", problems),
        ),
        locations=_read_labels(config.location, problems),
        threats=_read_labels(config.threat, problems),
    )
    if problems:
        raise InvalidError("policy_invalid", "policy files have mistakes", detail="\n".join(problems))
    return files


def signature(config: PolicyConfig) -> tuple[object, ...]:
    """A value that differs once a file was changed, added or removed; cheap to look at."""
    paths = [path for folder in (config.folder, config.admin_folder) if folder for path in _listed(folder)]
    paths += [path for path in (config.location, config.threat) if path]
    return tuple((str(path), *_stamp(path)) for path in paths)


def _listed(folder: Path) -> list[Path]:
    try:
        return _policy_paths(folder)
    except OSError:
        return [folder]


def _policy_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".cedar" and not path.name.startswith("."))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_folder(folder: Path | None, layer: Layer, prefix: str, problems: list[str]) -> list[PolicySet]:
    if folder is None:
        return []
    try:
        paths = _policy_paths(folder)
    except OSError as error:
        problems.append(f"{folder}: {error.strerror} (make it readable, or leave it out of `policies`)")
        return []
    if len(paths) > MAX_FILES:
        problems.append(f"{folder}: more than {MAX_FILES} policy files (join some)")
        return []
    return [
        PolicySet(f"{prefix}{path.name}", layer, (text,))
        for path in paths
        if (text := _read_text(path, problems)) is not None
    ]


def _read_text(path: Path, problems: list[str]) -> str | None:
    try:
        text = _read_bounded(path, MAX_FILE_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        problems.append(f"{path.name}: not UTF-8 (save it as UTF-8)")
    except InvalidError as error:
        problems.append(error.message)
    else:
        if text.strip():
            return text
        # What an editor or a full disk leaves behind must not lift what the file forbade.
        problems.append(f"{path.name}: empty (remove the file if it has nothing to say)")
    return None


def _read_labels(path: Path | None, problems: list[str]) -> tuple[Label, ...]:
    if path is None:
        return ()
    try:
        return parse_labels(path.name, _read_bounded(path, MAX_SETTINGS_BYTES))
    except SettingsInvalidError as error:
        problems += map(str, error.mistakes)
    except HopsealError as error:
        problems.append(error.message)
    return ()


def _read_bounded(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InvalidError("policy_invalid", f"{path}: {error.strerror}", remedy="make it readable") from error
    if len(data) > limit:
        raise InvalidError("policy_invalid", f"{path}: larger than {limit} bytes")
    return data
