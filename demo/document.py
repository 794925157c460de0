"""The agent's document, out of what the attestor measured of the running components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from demo.stage import AGENT, SHELL_UID, Stage
from hopseal.cli.document_draft import draft_attest, dump_yaml

_ROLES = {"orchestrator": "orchestrator", "reasoner": "reasoning-engine", "crm-connector": "connector"}
# An MCP client asks for the server's versions first, and for the tool's schema to check the answer against.
_MCP_SESSION = ["server/discover", "tools/list"]
_CALLS: dict[str, list[dict[str, Any]]] = {
    "orchestrator": [
        {"to": "reasoner", "operations": ["POST /v1/chat/completions"]},
        {"to": "crm-connector", "operations": [*_MCP_SESSION, "tools/call crm.update"]},
    ],
    "reasoner": [{"to": "crm-connector", "operations": [*_MCP_SESSION, "tools/call crm.lookup"]}],
}
# MCP servers refuse a Host without a port.
_EXTRA: dict[str, dict[str, Any]] = {
    "crm-connector": {
        "listenHost": "localhost:8000",
        "tools": [{"name": "crm.lookup", "risk": "low"}, {"name": "crm.update", "risk": "high"}],
    }
}


def write_document(stage: Stage, measured: Mapping[str, Mapping[str, Any]], folders: Mapping[str, str]) -> str:
    """The document's text; it stands in the documents folder when this returns.

    Args:
        stage: the folders.
        measured: component name to what the attestor answered.
        folders: component name to the folder whose content gets approved.
    """
    components = [
        {
            "name": name,
            "role": _ROLES[name],
            "attest": {**draft_attest(each, [folders[name]]), "uid": each["uid"]},
            "listen": f"unix://{stage.socket(name)}",
            **_EXTRA.get(name, {}),
            **({"calls": _CALLS[name]} if name in _CALLS else {}),
        }
        for name, each in measured.items()
    ]
    # The shell is not running yet; it is the same interpreter or image, under its own user.
    program = {key: value for key, value in draft_attest(measured["orchestrator"]).items() if key in {"image", "exe"}}
    shell = {
        "name": "shell",
        "role": "environment",
        "mayStart": True,
        "attest": {**program, "uid": SHELL_UID},
        "calls": [{"to": "orchestrator", "operations": ["POST /task"]}],
    }
    text = dump_yaml(
        {
            "apiVersion": "hopseal.dev/v1alpha1",
            "kind": "Agent",
            "metadata": {"name": AGENT},
            "spec": {
                "version": "1.0.0",
                "description": "Answers account questions for the sales team",
                "owner": "crm-platform-lead@example.org",
                "components": [*components, shell],
            },
        }
    )
    partial = stage.folder / "document.partial"
    partial.write_text(text)
    partial.rename(stage.documents / f"{AGENT}.yaml")
    return text
