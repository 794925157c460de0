"""The components as plain processes, each under its own user: how they are told apart without containers."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from demo.runner import Finished, serve_command
from demo.stage import SHELL_UID, Part, Stage

STOP_TIMEOUT_S = 5.0
_PR_SET_PDEATHSIG = 1  # prctl(2)


class ProcessRunner:
    """Implements ``demo.runner.Runner``.

    Args:
        stage: the folders.
        environment: what points components at the node's sockets.
    """

    def __init__(self, stage: Stage, environment: Mapping[str, str]) -> None:
        self._stage = stage
        self._environment = {**os.environ, **environment, "HOME": "/"}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def description(self) -> str:
        """What the components run as."""
        return "plain processes, each under a user of its own (no container engine answers here)"

    def start(self, part: Part) -> None:
        """Start a component."""
        given = {
            name: value.format(config=self._stage.config(part.name), data=self._stage.data)
            for name, value in part.variables
        }
        command = serve_command(sys.executable, str(self._stage.socket(part.name)), part)
        with self._stage.log(part.name).open("wb") as log:
            self._running[part.name] = subprocess.Popen(
                command,
                env={**self._environment, **given},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=part.uid,
                group=part.uid,
                extra_groups=[self._stage.socket_group],
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - a single system call
            )

    def pid(self, name: str) -> int:
        """The process of a started component."""
        return self._running[name].pid

    def config_folder(self, name: str) -> str:
        """Where the component sees the files that get approved."""
        return str(self._stage.config(name))

    def run_shell(self, arguments: list[str]) -> Finished:
        """Run ``hopseal ARGUMENTS`` as the component ``shell``."""
        done = subprocess.run(
            [sys.executable, "-m", "hopseal.cli.main", *arguments],
            env=self._environment,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            user=SHELL_UID,
            group=SHELL_UID,
            extra_groups=[],
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def stop(self) -> None:
        """End everything that was started."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def end_with_parent() -> None:
    """Let the kernel end this process when the demo ends, however it does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
