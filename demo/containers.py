"""The components as containers of the engine that answers here: no network, no rights, read-only."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from demo.runner import Finished, serve_command
from demo.stage import SHELL_UID, Part, Stage

CONFIG_FOLDER = "/etc/agent"
DATA_FOLDER = "/var/lib/crm"
TIMEOUT_S = 60.0
_FRAME = struct.Struct(">BxxxL")  # Docker Engine API, "Stream format" of attach
_STDERR = 2


class ContainerRunner:
    """Implements ``demo.runner.Runner``.

    Args:
        stage: the folders.
        engine: API socket of the engine.
        image: id of the image, see ``demo.image``.
        python: path of the interpreter in it.
        node: folders with the node's sockets, by where containers see them.
        environment: what points components at those sockets.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        engine: Path,
        image: str,
        python: str,
        node: Mapping[str, Path],
        environment: Mapping[str, str],
    ) -> None:
        self._stage = stage
        self._engine = engine
        self._image = image
        self._python = python
        self._mounts = [f"{source}:{target}:ro" for target, source in node.items()]
        self._environment = [f"{name}={value}" for name, value in environment.items()]
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(engine)), base_url="http://engine", timeout=TIMEOUT_S
        )
        self._containers: dict[str, str] = {}

    @property
    def description(self) -> str:
        """What the components run as."""
        return f"containers of the engine at {self._engine}"

    def start(self, part: Part) -> None:
        """Start a component."""
        given = [f"{name}={value.format(config=CONFIG_FOLDER, data=DATA_FOLDER)}" for name, value in part.variables]
        mounts = [f"{self._stage.sockets}:{self._stage.sockets}", f"{self._stage.config(part.name)}:{CONFIG_FOLDER}:ro"]
        if any("{data}" in value for _, value in part.variables):
            mounts.append(f"{self._stage.data}:{DATA_FOLDER}")
        command = serve_command(self._python, str(self._stage.socket(part.name)), part)
        container = self._create(part.uid, command, mounts, given)
        self._containers[part.name] = container
        self._ask("POST", f"/containers/{container}/start")

    def pid(self, name: str) -> int:
        """The first process of the component's container, as the host numbers it."""
        return int(self._ask("GET", f"/containers/{self._containers[name]}/json").json()["State"]["Pid"])

    def config_folder(self, name: str) -> str:  # noqa: ARG002 - the same for every container
        """Where the component sees the files that get approved."""
        return CONFIG_FOLDER

    def run_shell(self, arguments: list[str]) -> Finished:
        """Run ``hopseal ARGUMENTS`` as the component ``shell``: a container of its own."""
        container = self._create(SHELL_UID, [self._python, "-m", "hopseal.cli.main", *arguments], [], [])
        self._containers["shell"] = container
        self._ask("POST", f"/containers/{container}/start")
        code = self._ask("POST", f"/containers/{container}/wait").json()["StatusCode"]
        output = self._ask("GET", f"/containers/{container}/logs", {"stdout": "true", "stderr": "true"}).content
        self._remove("shell")
        stdout, stderr = _split_streams(output)
        return Finished(int(code), stdout, stderr)

    def stop(self) -> None:
        """Remove every container."""
        for name in list(self._containers):
            self._remove(name)
        self._http.close()

    def _create(self, uid: int, command: list[str], mounts: list[str], environment: list[str]) -> str:
        body = {
            "Image": self._image,
            "Cmd": command,
            "Env": [*self._environment, *environment],
            "User": f"{uid}:{uid}",
            "HostConfig": {
                "Binds": [*self._mounts, *mounts],
                "NetworkMode": "none",
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "GroupAdd": [str(self._stage.socket_group)],
            },
        }
        return str(self._ask("POST", "/containers/create", json=body).json()["Id"])

    def _remove(self, name: str) -> None:
        container = self._containers.pop(name)
        self._http.delete(f"/containers/{container}", params={"force": "true"})

    def _ask(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, json: dict[str, Any] | None = None
    ) -> httpx.Response:
        return self._http.request(method, path, params=parameters, json=json).raise_for_status()


def _split_streams(data: bytes) -> tuple[str, str]:
    """Standard output and error out of the engine's frames."""
    stdout, stderr = bytearray(), bytearray()
    while len(data) >= _FRAME.size:
        stream, size = _FRAME.unpack_from(data)
        piece, data = data[_FRAME.size : _FRAME.size + size], data[_FRAME.size + size :]
        (stderr if stream == _STDERR else stdout).extend(piece)
    return stdout.decode(), stderr.decode()
