"""Set up everything that ``make demo``, ``make check`` or ``make test`` needs, and say what is being done.

Usage: ``python3 scripts/bootstrap.py {demo,check,test}``. Safe to repeat: a step whose inputs have not
changed is skipped. The demo installs only into the checkout and the cache folder; the tests may install
system packages, as root, after naming them. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from steps import StepFailedError, run, say, skip

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CRATE = ROOT / "broker" / "dataplane"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hopseal"
SPIRE_VERSION = "1.15.3"
SPIRE = CACHE / f"spire-{SPIRE_VERSION}"
UV_VERSION = "0.13.9"
MINIMUM_PYTHON = (3, 11)
WHEEL_ENVIRONMENT = {"CARGO_TARGET_DIR": str(CACHE / "target"), "PYO3_PYTHON": str(PYTHON)}
SYSTEM_PACKAGES = ("busybox-static", "docker.io", "iproute2", "libfaketime", "podman", "uidmap", "util-linux")


def main() -> int:
    """Run the set-up that the argument names; exit 3 when something is missing."""
    kinds = {"demo": _demo, "check": _check, "test": _test}
    if len(sys.argv) != 2 or sys.argv[1] not in kinds:
        say("usage: python3 scripts/bootstrap.py {demo,check,test}")
        return 2
    say(f"Setting up for make {sys.argv[1]}")
    try:
        kinds[sys.argv[1]]()
    except StepFailedError as error:
        say(f"  ✗ {error}")
        return 3
    return 0


def _demo() -> None:
    _need_tools()
    _environment("demo")
    _packages()


def _check() -> None:
    _need_tools()
    _environment("dev")
    _packages()


def _test() -> None:
    _check()
    _system_packages()
    _spire()


def _need_tools() -> None:
    if sys.version_info < MINIMUM_PYTHON:
        raise StepFailedError(f"Hopseal needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    if shutil.which("cargo") is None:
        raise StepFailedError(
            "Hopseal's data plane is built with Rust and no cargo was found: install a Rust toolchain "
            "(https://rustup.rs), then run this again."
        )


def _environment(kind: str) -> None:
    """The virtual environment with the packages of ``requirements/<kind>.txt``, hashes checked."""
    for name in (kind, "dev"):  # the development packages hold the demo's, at the same versions
        stamp = VENV / f".hopseal-{name}"
        if stamp.exists() and stamp.read_text() == _digest([_lock(name)]):
            skip("Python packages", "as locked")
            return
    if not PYTHON.exists():
        run("Python environment", [sys.executable, "-m", "venv", VENV], cwd=ROOT)
    run("package installer", [PYTHON, "-m", "pip", "install", "--quiet", f"uv=={UV_VERSION}"], cwd=ROOT)
    install: list[str | Path] = [VENV / "bin" / "uv", "pip", "install", "--python", PYTHON, "--compile-bytecode"]
    run("Python packages", [*install, "--require-hashes", "-r", _lock(kind)], cwd=ROOT)
    (VENV / f".hopseal-{kind}").write_text(_digest([_lock(kind)]))


def _lock(kind: str) -> Path:
    return ROOT / "requirements" / f"{kind}.txt"


def _packages() -> None:
    """Both distributions, editable, with the data plane built from this checkout's Rust sources."""
    library = _build_dataplane()
    target = ROOT / "broker" / "_dataplane.abi3.so"
    if not target.exists() or target.read_bytes() != library.read_bytes():
        partial = target.with_suffix(".partial")
        shutil.copyfile(library, partial)
        partial.rename(target)
    _register("hopseal", ROOT / "pyproject.toml")
    _register("hopseal-node", CRATE / "pyproject.toml")
    # Components of other users, and containers, can read bytecode here but never write it.
    compiled: list[str | Path] = [PYTHON, "-m", "compileall", "-q", "attestor", "broker", "demo", "hopseal"]
    subprocess.run(compiled, cwd=ROOT, check=True)


def _build_dataplane() -> Path:
    """The data plane's shared library, from the cache if these sources were built before."""
    version = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.encode()
    key = _digest(_crate_sources(), extra=version)[:20]
    library = CACHE / "dataplane" / key / "_dataplane.abi3.so"
    if library.exists():
        skip("Rust data plane", "built before from the same sources")
        return library
    with tempfile.TemporaryDirectory(prefix="hopseal-wheel-") as folder:
        run("Rust data plane (minutes the first time)", wheel_command(Path(folder)), cwd=CRATE, env=WHEEL_ENVIRONMENT)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            built = archive.read(f"broker/{library.name}")
    library.parent.mkdir(parents=True, exist_ok=True)
    partial = library.with_suffix(".partial")
    partial.write_bytes(built)
    partial.rename(library)
    return library


def wheel_command(out: Path) -> list[str | Path]:
    """The command that builds the wheel of hopseal-node into ``out``; everywhere the same, so that it is built once."""
    return [VENV / "bin" / "maturin", "build", "--locked", "--release", "--out", out]


def _crate_sources() -> Iterable[Path]:
    names = ("*.rs", "*.cedarschema", "Cargo.toml", "Cargo.lock")
    return sorted(path for name in names for path in CRATE.rglob(name) if "target" not in path.parts)


def _register(name: str, project: Path) -> None:
    """Make ``name`` importable from the tree, with its metadata, commands and entry points."""
    import tomllib  # noqa: PLC0415 - absent before 3.11, where the version check must still speak

    described = tomllib.loads(project.read_text())["project"]
    site = Path(sysconfig.get_path("purelib", vars={"base": str(VENV), "platbase": str(VENV)}))
    folder = site / f"{name.replace('-', '_')}-{described['version']}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {described['version']}\n")
    (folder / "INSTALLER").write_text("hopseal-bootstrap\n")
    groups = {"console_scripts": described.get("scripts", {}), **described.get("entry-points", {})}
    (folder / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
            for group, entries in groups.items()
        )
    )
    (folder / "RECORD").write_text("")
    (site / "hopseal-checkout.pth").write_text(f"{ROOT}\n")
    for command, target in described.get("scripts", {}).items():
        module, _, function = target.partition(":")
        script = VENV / "bin" / command
        script.write_text(f"#!{PYTHON}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        script.chmod(0o755)


def _system_packages() -> None:
    missing = [name for name in SYSTEM_PACKAGES if not _installed(name)]
    if not missing:
        skip("system packages", "installed")
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise StepFailedError(f"the tests need these system packages, and root to install them: {' '.join(missing)}")
    say(f"  installing system packages: {' '.join(missing)}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    run("package lists", ["apt-get", "update", "-q"], cwd=ROOT, env=environment)
    command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
    run("system packages", command, cwd=ROOT, env=environment)


def _installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    if shutil.which("dpkg-query") is None:
        return False
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"


def _spire() -> None:
    if all((SPIRE / name).exists() for name in ("spire-server", "spire-agent")):
        skip(f"SPIRE {SPIRE_VERSION}", "built before")
        return
    if shutil.which("go") is None:
        raise StepFailedError(
            "the tests build a real SPIRE and need Go 1.21 or newer: install Go, then run this again."
        )
    script = ROOT / "scripts" / "build-spire.sh"
    run(f"SPIRE {SPIRE_VERSION} (minutes the first time)", ["bash", script, SPIRE_VERSION, SPIRE], cwd=ROOT)


def _digest(paths: Iterable[Path], *, extra: bytes = b"") -> str:
    digest = hashlib.sha256(extra)
    for path in paths:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
