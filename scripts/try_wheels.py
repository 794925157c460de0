"""Build both wheels and try each in an empty environment: what is published works, not only the tree.

Run inside the development environment. ``hopseal`` must work alone; ``hopseal-node`` adds the daemons.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from bootstrap import CRATE, PYTHON, ROOT, VENV, WHEEL_ENVIRONMENT, wheel_command
from steps import StepFailedError, run, say

WHEELS = ROOT / "build" / "wheels"
PURE_MODULES = "hopseal.custody, hopseal.documents, hopseal.log, hopseal.verify, hopseal.cli.main, hopseal.sdk.tasks"


def main() -> int:
    """Build, install and try both wheels; 1 when one does not work."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    for old in WHEELS.glob("*.whl"):
        old.unlink()
    uv = VENV / "bin" / "uv"
    try:
        run("wheel hopseal", [PYTHON, "-m", "hatchling", "build", "-t", "wheel", "-d", WHEELS], cwd=ROOT)
        run("wheel hopseal-node", wheel_command(WHEELS), cwd=CRATE, env=WHEEL_ENVIRONMENT)
        pure, node = (next(WHEELS.glob(pattern)) for pattern in ("hopseal-*.whl", "hopseal_node-*.whl"))
        _need_every_module(node)
        with tempfile.TemporaryDirectory(prefix="hopseal-wheels-") as folder:
            _try(uv, Path(folder) / "pure", [pure], _pure_checks())
            _try(uv, Path(folder) / "node", [pure, node], _node_checks())
    except StepFailedError as error:
        say(f"  ✗ {error}")
        return 1
    return 0


def _pure_checks() -> list[tuple[list[str], int, str]]:
    return [
        (["bin/python", "-c", f"import {PURE_MODULES}"], 0, ""),
        (["bin/hopseal", "version"], 0, "hopseal"),
        (["bin/hopseal", "attestor", "run"], 3, "hopseal-node"),
        (["bin/hopseal", "run", "--help"], 0, "--isolate"),
        (["bin/hopseal", "serve-stdio", "--listen", "/x", "--", "cat"], 3, "hopseal[aiohttp]"),
        (["bin/hopseal", "audit", "witness", "run", "--help"], 0, "--config"),
    ]


def _node_checks() -> list[tuple[list[str], int, str]]:
    return [
        (["bin/python", "-c", "import attestor.service, broker.service, broker._dataplane"], 0, ""),
        (["bin/hopseal", "attestor", "run", "--help"], 0, "--config"),
        (["bin/hopseal", "broker", "run", "--help"], 0, "--config"),
    ]


def _need_every_module(wheel: Path) -> None:
    """The wheel's packages are listed one by one in its pyproject.toml; one that was forgotten is found here."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    modules = (path.relative_to(ROOT) for package in ("attestor", "broker") for path in (ROOT / package).rglob("*.py"))
    missing = sorted({str(path) for path in modules if "dataplane" not in path.parts} - packed)
    if missing:
        raise StepFailedError(f"{wheel.name} lacks {', '.join(missing)}")


def _try(uv: Path, folder: Path, wheels: list[Path], checks: list[tuple[list[str], int, str]]) -> None:
    """Install ``wheels`` (dependencies at the locked versions) into ``folder`` and run ``checks`` there."""
    run(f"empty environment {folder.name}", [uv, "venv", "--quiet", folder], cwd=ROOT)
    lock = ROOT / "build" / "constraints.txt"
    lock.write_text(_without_hashes((ROOT / "requirements" / "dev.txt").read_text()))
    install: list[str | Path] = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        folder / "bin" / "python",
        "-c",
        lock,
        *wheels,
    ]
    run(f"install {', '.join(wheel.name.split('-')[0] for wheel in wheels)}", install, cwd=ROOT)
    for command, code, expected in checks:
        program = [str(folder / command[0]), *command[1:]]
        result = subprocess.run(program, capture_output=True, text=True, check=False, cwd=folder)
        output = result.stdout + result.stderr
        if result.returncode != code or expected not in output:
            raise StepFailedError(f"{' '.join(command)} gave exit {result.returncode}, wanted {code}: {output[-2000:]}")
        say(f"  ✓ {' '.join(command)[:80]}")


def _without_hashes(lock: str) -> str:
    lines = (line.split(" \\")[0] for line in lock.splitlines())
    return "\n".join(line for line in lines if line and not line.lstrip().startswith(("--hash", "#")))


if __name__ == "__main__":
    sys.exit(main())
