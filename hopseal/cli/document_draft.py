"""Drafts of documents, from what was measured, for a human to complete and review.

Owns: the text. Does not own: measuring other processes (the attestor) or accepting a document
(``hopseal.documents``).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

_REVIEW = """\
# Drafted from what runs now. Review it, then: hopseal agents check. What only you know of each component:
#   role: orchestrator | reasoning-engine | connector | environment
#   listen: unix:///run/agents/AGENT/COMPONENT.sock    where it is called, if it is
#   calls: [{to: COMPONENT, operations: [GET /path, tools/call name]}]    whom it may call
#   mayStart: true    if it begins tasks of its own
"""
_OWN_EXECUTABLE = Path("/proc/self/exe")


class _Indented(yaml.SafeDumper):
    """Lists indented under their key, as documents are written by hand."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - PyYAML's signature
        super().increase_indent(flow, indentless=False)


def dump_yaml(data: object) -> str:
    """``data`` as block YAML in the order of its keys."""
    return yaml.dump(data, Dumper=_Indented, sort_keys=False, allow_unicode=True, width=110)


def file_digest(path: Path) -> str:
    """``sha256:<hex>`` of the file's content."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def draft_caller(url: str, method: str) -> str:
    """The component that this very process would have to be to make a call to ``url``."""
    parts = urlsplit(url)
    component, _, agent = (parts.hostname or "").partition(".")
    target = f"{component}.{agent}" if agent else component
    draft = {
        "name": "shell",
        "role": "environment",
        "mayStart": True,
        "attest": {"uid": os.geteuid(), "exe": [file_digest(_OWN_EXECUTABLE)]},
        "calls": [{"to": target, "operations": [f"{method} {parts.path or '/'}"]}],
    }
    return dump_yaml([draft]).rstrip()


def draft_runner(program: str) -> str:
    """The component that this very process would have to be to run ``program`` and call for it."""
    name = re.sub(r"[^a-z0-9]+", "-", program.lower().partition(".")[0]).strip("-") or "program"
    draft = {
        "name": name,
        "role": "environment",
        "mayStart": True,
        "attest": {"uid": os.geteuid(), "exe": [file_digest(_OWN_EXECUTABLE)]},
        "calls": [{"to": "COMPONENT"}],
    }
    return dump_yaml([draft]).rstrip()


def draft_agent(name: str, components: Mapping[str, tuple[Mapping[str, Any], Sequence[str]]], owner: str) -> str:
    """A whole document.

    Args:
        name: of the agent, a DNS label.
        components: component name to what the attestor measured of its process, and of which files.
        owner: the person who answers for the agent.
    """
    document = {
        "apiVersion": "hopseal.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": name},
        "spec": {
            "version": "0.1.0",
            "description": f"What {name} does, in one sentence",
            "owner": owner,
            "status": "active",
            "components": [
                {"name": each, "role": "environment", "attest": draft_attest(measured, files)}
                for each, (measured, files) in components.items()
            ],
        },
    }
    return f"{_REVIEW}{dump_yaml(document)}"


def draft_attest(measured: Mapping[str, Any], files: Sequence[str] = ()) -> dict[str, Any]:
    """The ``attest`` block that describes exactly what was measured.

    Args:
        measured: what the attestor answered, see its admin socket.
        files: the configuration files that were measured with it.
    """
    block: dict[str, Any] = {}
    if measured.get("image"):
        block["image"] = list(measured["image"][:1])
    else:
        block["uid"] = measured["uid"]
        block["exe"] = [measured["exe"]]
        # A service keeps its unit over restarts; a session or a bare cgroup does not.
        if str(measured.get("unit") or "").endswith(".service"):
            block["unit"] = measured["unit"]
    config = measured.get("config")
    if config and files:
        block["config"] = {"files": list(files), "digest": [config["digest"]]}
    if measured.get("posture"):
        block["posture"] = measured["posture"]
    return block
