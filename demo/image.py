"""A container image made of this machine's own Python, because nothing is pulled from a registry.

Owns: which files go into the image and the import through the engine's API. Everything keeps its absolute path, so
the interpreter in a container is started by the same command as on the host. Built once: named after its content.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import re
import stat
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx

REPOSITORY = "hopseal-demo"
ROOT = Path(__file__).resolve().parent.parent
DEMO_IMPORTS = ("click", "cryptography", "grpclib", "httpx2", "mcp", "openai", "protobuf", "PyYAML", "rich", "uvicorn")
CHECKOUT_PACKAGES = ("hopseal", "demo")
STDLIB_LEFT_OUT = {"ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tests", "tkinter", "turtledemo"}
MOUNT_POINTS = ("/run/agents", "/run/hopseal/agent", "/run/hopseal/call", "/proc", "/sys", "/dev", "/tmp")  # noqa: S108 - in the image
IMPORT_TIMEOUT_S = 300.0
_REQUIREMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ImageError(Exception):
    """The engine did not take the image; the message is the engine's."""


def build_image(engine: str, *, packages: bool) -> str:
    """The id ``sha256:…`` of an image with this interpreter, and with the demo's packages if ``packages``.

    Args:
        engine: path of the engine's API socket.
        packages: also the demo, ``hopseal`` and what they import.

    Raises:
        ImageError: the engine refused or could not be reached.
    """
    files = sorted(set(_files(packages=packages)))
    tag = _content_tag(files)
    with httpx.Client(transport=httpx.HTTPTransport(uds=engine), timeout=IMPORT_TIMEOUT_S) as client:
        try:
            found = _image_id(client, tag)
            if found is None:
                _import(client, files, tag)
                found = _image_id(client, tag)
        except httpx.TransportError as error:
            raise ImageError(f"container engine at {engine}: {error}") from error
    if found is None:
        raise ImageError(f"container engine at {engine} took the image but does not know it")
    return found


def _image_id(client: httpx.Client, tag: str) -> str | None:
    answer = client.get(f"http://engine/images/{REPOSITORY}:{tag}/json")
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    return str(answer.raise_for_status().json()["Id"])


def _import(client: httpx.Client, files: list[Path], tag: str) -> None:
    query = {"fromSrc": "-", "repo": REPOSITORY, "tag": tag, "changes": "ENV PYTHONDONTWRITEBYTECODE=1"}
    headers = {"content-type": "application/x-tar"}
    answer = client.post("http://engine/images/create", params=query, content=_archive(files), headers=headers)
    last = answer.text.strip().splitlines()[-1:] or ["{}"]
    if answer.is_error or "error" in json.loads(last[0]):
        raise ImageError(f"container engine refused the image: {last[0]}")


def _content_tag(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        facts = path.stat()
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_mode}\n".encode())
    return digest.hexdigest()[:16]


def _files(*, packages: bool) -> Iterator[Path]:
    interpreter = Path(sys.executable).resolve()
    yield interpreter
    yield from (path for path in interpreter.parent.glob("python3*") if path.resolve() == interpreter)
    yield from _stdlib()
    extensions = [interpreter, *(path for path in _stdlib() if path.suffix == ".so")]
    if packages:
        installed = list(_packages())
        yield from installed
        extensions += [path for path in installed if ".so" in path.suffixes]
    yield from _shared_libraries(extensions)


def _stdlib() -> Iterator[Path]:
    for name in ("stdlib", "platstdlib"):
        folder = Path(sysconfig.get_path(name, vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}))
        yield from _tree(folder, left_out=STDLIB_LEFT_OUT)


def _packages() -> Iterator[Path]:
    """The virtual environment's interpreter, the packages that the demo imports, and the checkout's own."""
    environment = Path(sys.prefix)
    yield environment / "pyvenv.cfg"
    yield from (path for path in (environment / "bin").glob("python*") if path.is_symlink())
    site = Path(sysconfig.get_path("purelib"))
    yield from (path for path in (*site.glob("hopseal*/*"), *site.glob("hopseal*.pth")) if path.is_file())
    for distribution in _closure(DEMO_IMPORTS):
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file))).resolve()
            if path.is_file() and environment in path.parents and "bin" not in path.relative_to(environment).parts:
                yield from _with_bytecode(path)
    for name in CHECKOUT_PACKAGES:
        for path in _tree(ROOT / name, left_out={"__pycache__"}):
            yield from _with_bytecode(path)


def _with_bytecode(path: Path) -> Iterator[Path]:
    """``path``, and its bytecode if there is any: a container cannot keep what it compiles."""
    yield path
    if path.suffix == ".py":
        compiled = Path(importlib.util.cache_from_source(str(path)))
        if compiled.is_file():
            yield compiled


def _closure(names: tuple[str, ...]) -> Iterator[importlib.metadata.Distribution]:
    """The distributions ``names`` and everything installed that they require."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            distribution = importlib.metadata.distribution(name)
            yield distribution
            required = (_REQUIREMENT_NAME.match(each) for each in distribution.requires or () if "extra ==" not in each)
            waiting += [match.group() for match in required if match is not None]


def _tree(folder: Path, *, left_out: set[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in left_out:
            continue
        if path.is_dir():
            yield from _tree(path, left_out=left_out)
        else:
            yield path


def _shared_libraries(programs: list[Path]) -> Iterator[Path]:
    """What the dynamic loader would map for ``programs``, by its own account."""
    answer = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    for line in answer.stdout.splitlines():
        found = re.search(r"(/\S+) \(0x[0-9a-f]+\)", line)
        if found:
            yield Path(found.group(1))


def _archive(files: list[Path]) -> Iterator[bytes]:
    """A tar of ``files`` at their own paths, owned by root, readable by everyone; streamed in pieces."""
    buffer = io.BytesIO()
    folders: set[Path] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for mount in (Path(point) for point in MOUNT_POINTS):
            _add_folders(archive, mount / "x", folders)
        for path in files:
            _add_folders(archive, path, folders)
            _add_file(archive, path)
            if buffer.tell() > 1 << 20:
                yield buffer.getvalue()
                buffer.seek(0)
                buffer.truncate()
    yield buffer.getvalue()


def _add_folders(archive: tarfile.TarFile, path: Path, done: set[Path]) -> None:
    for folder in reversed(path.parents[:-1]):
        if folder in done:
            continue
        done.add(folder)
        entry = tarfile.TarInfo(str(folder)[1:])
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if str(folder) == "/tmp" else 0o755  # noqa: S108 - in the image
        archive.addfile(entry)


def _add_file(archive: tarfile.TarFile, path: Path) -> None:
    entry = tarfile.TarInfo(str(path)[1:])
    if path.is_symlink() and not re.search(r"\.so(\.|$)|ld-linux", path.name):
        entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
        archive.addfile(entry)
        return
    facts = path.stat()
    entry.size, entry.mtime = facts.st_size, int(facts.st_mtime)
    entry.mode = 0o755 if facts.st_mode & stat.S_IXUSR else 0o644
    with path.open("rb") as source:
        archive.addfile(entry, source)
