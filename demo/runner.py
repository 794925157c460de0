"""Running the demo's components: what processes and containers have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from demo.stage import Part


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str


class Runner(Protocol):
    """Starts components, and commands as the component ``shell``."""

    @property
    def description(self) -> str:
        """What the components run as, for the reader."""

    def start(self, part: Part) -> None:
        """Start a component."""

    def pid(self, name: str) -> int:
        """The process of a started component, as the host numbers it."""

    def config_folder(self, name: str) -> str:
        """Where the component sees the files that get approved."""

    def run_shell(self, arguments: list[str]) -> Finished:
        """Run ``hopseal ARGUMENTS`` as the component ``shell``."""

    def stop(self) -> None:
        """End everything that was started."""


def serve_command(python: str, socket: str, part: Part) -> list[str]:
    """How any ASGI application is served on a Unix socket."""
    return [python, "-m", "uvicorn", "--log-level", "warning", "--uds", socket, *part.application]
