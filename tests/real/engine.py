"""Private container engines: real Docker and Podman daemons with state and sockets of their own.

``docker_engine`` and ``podman_engine`` are fixtures for a whole session; import them into a test module.
Nothing of the machine's own engine, if it has one, is touched. Containers get no network.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from waiting import wait_until

BUSYBOX = Path("/bin/busybox")
APPLETS = ("cat", "chroot", "ln", "ls", "mkfifo", "mv", "nc", "sh", "sleep", "sync")
START_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 60.0
CAP_SYS_RESOURCE = 24

# A machine may itself be a container that lacks a capability which engines hand to privileged containers;
# runc then refuses to start any. This runtime takes out of each container what nobody here could have.
RUNTIME = f"""#!{sys.executable} -IS
import json, os, sys
arguments = sys.argv[1:]
def rewrite(path, find):
    with open(path) as file:
        config = json.load(file)
    process = find(config)
    for names in (process.get("capabilities") or {{}}).values():
        names[:] = [name for name in names if name != "CAP_SYS_RESOURCE"]
    process.pop("rlimits", None)
    with open(path, "w") as file:
        json.dump(config, file)
for flag, value in zip(arguments, arguments[1:]):
    if flag in ("--bundle", "-b"):
        rewrite(os.path.join(value, "config.json"), lambda config: config["process"])
    if flag in ("--process", "-p"):
        rewrite(value, lambda process: process)
os.execvp("runc", ["runc", *arguments])
"""


@dataclass
class RealEngine:
    """One running engine; ``kind`` is what selectors call it."""

    kind: str
    socket: Path
    command: Sequence[str]
    folder: Path
    daemon: subprocess.Popen[bytes]
    started: list[str] = field(default_factory=list)

    def run(self, *arguments: str, check: bool = True) -> str:
        """What the engine's command line prints."""
        done = subprocess.run(
            [*self.command, *arguments], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def build_image(self, name: str, files: dict[str, bytes] | None = None, *changes: str) -> str:
        """A new image of busybox and ``files``; its digest, ``sha256:<hex>``."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            _add(tar, "bin/busybox", BUSYBOX.read_bytes(), mode=0o755)
            for applet in APPLETS:
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
            for path, content in ({"etc/image-name": name.encode()} | (files or {})).items():
                _add(tar, path.lstrip("/"), content, mode=0o755 if path.startswith("bin/") else 0o644)
        options = [part for change in changes for part in ("--change", change)]
        done = subprocess.run(
            [*self.command, "import", *options, "-", name],
            input=archive.getvalue(),
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=True,
        )
        return done.stdout.decode().split()[-1]

    def start(self, image: str, *options: str, command: Sequence[str] = ("/bin/sleep", "600")) -> str:
        """The full id of a new running container; removed with the engine."""
        network = () if any(option.startswith("--network") for option in options) else ("--network", "none")
        container_id = self.run("run", "--detach", "--name", f"t-{uuid.uuid4()}", *network, *options, image, *command)
        self.started.append(container_id)
        return container_id

    def pid(self, container_id: str) -> int:
        """The container's first process."""
        return int(self.run("inspect", "--format", "{{.State.Pid}}", container_id))

    def remove(self, container_id: str) -> None:
        """Kill and remove a container."""
        self.run("kill", container_id, check=False)
        self.run("rm", "--force", container_id)
        self.started.remove(container_id)


def _add(tar: tarfile.TarFile, path: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; make test installs it")
    if not BUSYBOX.exists():
        pytest.skip("busybox-static is not installed; make test installs it")


def _lacks_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    bounding = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    return not int(bounding.split()[1], 16) >> number & 1


def _write_runtime(folder: Path) -> Path:
    runtime = folder / "runtime"
    runtime.write_text(RUNTIME)
    runtime.chmod(runtime.stat().st_mode | stat.S_IXUSR)
    return runtime


@contextmanager
def _daemon(command: Sequence[str], folder: Path, socket: Path, **popen: object) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, **popen)  # type: ignore[call-overload]
        try:
            wait_until(
                lambda: socket.exists() or daemon.poll() is not None, timeout_s=START_TIMEOUT_S, what="the engine"
            )
            if daemon.poll() is not None:
                raise AssertionError((folder / "log").read_text(encoding="utf-8", errors="replace")[-3000:])
            yield daemon
        finally:
            daemon.terminate()
            try:
                daemon.wait(START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@contextmanager
def _running(engine: RealEngine) -> Iterator[RealEngine]:
    wait_until(lambda: engine.run("version", check=False), timeout_s=START_TIMEOUT_S, what="the engine's answer")
    try:
        yield engine
    finally:
        for container_id in tuple(engine.started):
            engine.remove(container_id)


@contextmanager
def private_docker() -> Iterator[RealEngine]:
    """A Docker Engine of its own."""
    _require("dockerd", "docker", "containerd", "runc")
    with tempfile.TemporaryDirectory(prefix="hopseal-docker-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        socket = folder / "docker.sock"
        command = [
            "dockerd",
            f"--data-root={folder / 'data'}",
            f"--exec-root={folder / 'exec'}",
            f"--pidfile={folder / 'pid'}",
            f"--host=unix://{socket}",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--userland-proxy=false",
            f"--config-file={folder / 'none.json'}",
        ]
        (folder / "none.json").write_text("{}")
        if _lacks_capability(CAP_SYS_RESOURCE):
            command += [
                f"--add-runtime=without-resource={_write_runtime(folder)}",
                "--default-runtime=without-resource",
            ]
        client = ["docker", "--host", f"unix://{socket}"]
        with ExitStack() as stack:
            daemon = stack.enter_context(_daemon(command, folder, socket))
            yield stack.enter_context(_running(RealEngine("docker", socket, client, folder, daemon)))


@contextmanager
def private_podman() -> Iterator[RealEngine]:
    """A Podman service of its own."""
    _require("podman", "conmon", "runc")
    with tempfile.TemporaryDirectory(prefix="hopseal-podman-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        socket = folder / "podman.sock"
        client = [
            "podman",
            f"--root={folder / 'root'}",
            f"--runroot={folder / 'run'}",
            f"--tmpdir={folder / 'tmp'}",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            "--log-level=error",
            f"--runtime={_write_runtime(folder) if _lacks_capability(CAP_SYS_RESOURCE) else shutil.which('runc')}",
        ]
        environment = os.environ | {"CONTAINERS_CONF": os.devnull}
        service = [*client, "system", "service", "--time=0", f"unix://{socket}"]
        with ExitStack() as stack:
            daemon = stack.enter_context(_daemon(service, folder, socket, env=environment))
            yield stack.enter_context(_running(RealEngine("podman", socket, client, folder, daemon)))


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[RealEngine]:
    """A Docker Engine for the session."""
    with private_docker() as engine:
        yield engine


@pytest.fixture(scope="session")
def podman_engine() -> Iterator[RealEngine]:
    """A Podman service for the session."""
    with private_podman() as engine:
        yield engine
