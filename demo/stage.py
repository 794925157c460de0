"""The folder that one run of the demo lives in, and who the components are."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from demo.components.data import write_database, write_orchestrator_files, write_reasoner_files

AGENT = "crm-assistant"
TRUST_DOMAIN = "demo.example.org"
FIRST_UID = 61_201  # above what distributions and systemd give to users


@dataclass(frozen=True, slots=True)
class Part:
    """One component of the demo's agent that serves a socket.

    Args:
        name: of the component.
        uid: its own user.
        application: what uvicorn serves.
        variables: environment variables; ``{config}`` and ``{data}`` stand for its folders as it sees them.
    """

    name: str
    uid: int
    application: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = field(default=())


SHELL_UID = FIRST_UID
PARTS = (
    Part(
        "orchestrator",
        FIRST_UID + 1,
        ("--factory", "demo.components.orchestrator:make_app"),
        (("ORCHESTRATOR_CONFIG", "{config}"),),
    ),
    Part(
        "reasoner",
        FIRST_UID + 2,
        ("--factory", "demo.components.reasoner:make_app"),
        (("REASONER_CONFIG", "{config}"),),
    ),
    Part(
        "crm-connector",
        FIRST_UID + 3,
        ("demo.components.connector:app",),
        (("CRM_DATABASE", "{data}/crm.sqlite"),),
    ),
)


@dataclass(frozen=True, slots=True)
class Stage:
    """Folders below one temporary folder.

    Args:
        folder: all of it.
        socket_group: group that may open the components' sockets: the broker's.
    """

    folder: Path
    socket_group: int

    @property
    def documents(self) -> Path:
        """Agent documents."""
        return self.folder / "documents"

    @property
    def sockets(self) -> Path:
        """The sockets that components serve."""
        return self.folder / "agents" / AGENT

    @property
    def node(self) -> Path:
        """Of the attestor and the broker."""
        return self.folder / "node"

    @property
    def data(self) -> Path:
        """The connector's database."""
        return self.folder / "data"

    def config(self, name: str) -> Path:
        """The files of component ``name`` that get approved."""
        return self.folder / "config" / name

    def socket(self, name: str) -> Path:
        """What component ``name`` serves."""
        return self.sockets / f"{name}.sock"

    def log(self, name: str) -> Path:
        """What component ``name`` printed."""
        return self.folder / f"{name}.log"


def set_stage(socket_group: int) -> Stage:
    """A new temporary folder with everything that the components are given."""
    folder = Path(tempfile.mkdtemp(prefix="hopseal-demo-"))
    folder.chmod(0o755)
    stage = Stage(folder, socket_group)
    for each in (stage.documents, stage.sockets, stage.data, *(stage.config(part.name) for part in PARTS)):
        each.mkdir(parents=True)
    write_orchestrator_files(stage.config("orchestrator"))
    write_reasoner_files(stage.config("reasoner"))
    (stage.config("crm-connector") / "tools.json").write_text('["crm.lookup", "crm.update"]')
    database = stage.data / "crm.sqlite"
    write_database(database)
    connector = PARTS[-1].uid
    for path in (stage.data, database):
        os.chown(path, connector, connector)
    # Components of other users make their sockets here; only they and the broker may use them.
    os.chown(stage.sockets, 0, socket_group)
    stage.sockets.chmod(0o2770)
    return stage
