"""The section ``policies`` of ``broker.yaml``.

Owns: its keys. Does not own: reading the folders and files that it names (``broker.policy.files``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hopseal.settings import Section


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Where policies come from, beside the Agent documents.

    Args:
        folder: ``*.cedar`` of whoever runs the agents; None for none.
        admin_folder: ``*.cedar`` that no other policy overrides; None for none.
        observe: policy sets whose denials are only told: ``documents``, a file's name, ``admin/`` and a file's name.
        location: file that gives components and services a location; None for none.
        threat: file that gives them a threat level; None for none.
    """

    folder: Path | None = None
    admin_folder: Path | None = None
    observe: tuple[str, ...] = ()
    location: Path | None = None
    threat: Path | None = None


def read_policies(top: Section) -> PolicyConfig:
    """The section of the file; a path alone stands for ``folder``."""
    if top.is_scalar("policies"):
        return PolicyConfig(folder=top.path("policies"))
    section = top.section("policies")
    labels = section.section("labels")
    config = PolicyConfig(
        folder=_optional(section, "folder"),
        admin_folder=_optional(section, "admin_folder"),
        observe=section.texts("observe"),
        location=_optional(labels, "location"),
        threat=_optional(labels, "threat"),
    )
    if config.folder is not None and config.folder == config.admin_folder:
        section.mistake("admin_folder", "is the same as folder", "keep what nobody may override in a folder of its own")
    for name in config.observe:
        if name != "documents" and not name.endswith(".cedar"):
            section.mistake(
                "observe",
                f"{name!r} is no policy set",
                "write documents, the name of a .cedar file, or admin/ and the name of one",
            )
    return config


def _optional(section: Section, key: str) -> Path | None:
    return section.path(key) if key in section else None
