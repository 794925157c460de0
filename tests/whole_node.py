"""A whole node as ``hopseal up`` runs it, with components beside it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hopseal.cli.document_draft import dump_yaml, file_digest
from hopseal.cli.local_node import library_folder

CLI = ["-m", "hopseal.cli.main"]
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class WholeNode:
    """A running node, whose components are told apart by interpreters of their own; what is started ends with it."""

    folder: Path
    documents: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def write(self, agent: str, components: list[dict[str, object]]) -> None:
        """Replace the document of ``agent``; each component is what :meth:`start` and :meth:`run` make of its name."""
        for each in components:
            own = {"uid": os.geteuid(), "exe": [file_digest(self.python(str(each["name"])))]}
            more = each.get("attest", {})
            each["attest"] = {**(more if isinstance(more, dict) else {}), **own}
        document = {
            "apiVersion": "hopseal.dev/v1alpha1",
            "kind": "Agent",
            "metadata": {"name": agent},
            "spec": {"owner": "someone@example.org", "components": components},
        }
        partial = self.folder / "document.partial"
        partial.write_text(dump_yaml(json.loads(json.dumps(document))))  # a document has no aliases
        partial.rename(self.documents / f"{agent}.yaml")

    def python(self, component: str) -> Path:
        """A copy of the interpreter that only this component runs: more bytes change its digest only."""
        path = self.folder / f"python-{component}"
        if not path.exists():
            shutil.copy(Path(sys.executable).resolve(), path)
            with path.open("ab") as file:
                file.write(component.encode())
        return path

    def socket(self, name: str) -> Path:
        """Where a component listens."""
        return self.folder / f"{name}.sock"

    def start(self, component: str, *arguments: object) -> None:
        """The component's interpreter, in the background."""
        with (self.folder / f"{component}.log").open("w") as log:
            process = subprocess.Popen(
                self._command(component, arguments),
                stdout=log,
                stderr=log,
                env=self._variables(),
                start_new_session=True,
            )
        self.started.append(process)

    def run(self, component: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        """The component's interpreter, to its end."""
        environment = {**self._variables(), **more}
        command = self._command(component, arguments)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the operator."""
        return self.run("operator", *CLI, *arguments)

    def log(self, component: str) -> str:
        """What a component wrote."""
        return (self.folder / f"{component}.log").read_text()

    def _command(self, component: str, arguments: tuple[object, ...]) -> list[str]:
        return [str(self.python(component)), *map(str, arguments)]

    def _variables(self) -> dict[str, str]:
        # A copy of the interpreter does not find by itself what a virtual environment installed.
        paths = [str(ROOT), *(entry for entry in sys.path if entry)]
        found = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONHOME": sys.base_prefix}
        libraries = library_folder()
        if libraries is not None:
            found["LD_LIBRARY_PATH"] = str(libraries)
        return {**os.environ, **self.environment, **found}


@contextlib.contextmanager
def whole_node(folder: Path) -> Iterator[WholeNode]:
    """A node without documents, ready."""
    documents = folder / "agents"
    documents.mkdir(parents=True)
    command = [sys.executable, "-u", *CLI, "up", "--documents", str(documents), "--state", str(folder / "node")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    shown: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        shown.append(line)
        if "Ctrl-C" in line:
            break
    else:
        raise AssertionError("".join(shown))
    source = next(line.strip() for line in shown if line.lstrip().startswith("source "))
    read = ["bash", "-c", f"{source} && env -0"]
    sourced = subprocess.run(read, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    node = WholeNode(folder, documents, dict(each.split("=", 1) for each in sourced.stdout.split("\0") if each))
    node.environment.pop("PWD", None)
    try:
        yield node
    finally:
        for each in node.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGTERM)
        for each in node.started:
            each.wait(20)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
