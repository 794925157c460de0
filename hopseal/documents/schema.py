"""The Agent document as JSON Schema, for editors and for review tools.

Owns: what can be said of one document's shape. Does not own: acceptance; the parser also checks what
no schema can, such as calls to nobody. What the schema refuses the parser refuses as well.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from hopseal.documents.attest import MAX_ID
from hopseal.documents.grammar import (
    DIGEST_PATTERN,
    EXTERNAL_PATTERN,
    HOST_PATTERN,
    LABEL_PATTERN,
    LISTEN_PATTERN,
    MAX_OPERATION_CHARS,
    MAX_TEXT_CHARS,
    UNIT_PATTERN,
)
from hopseal.documents.model import AgentStatus, Custody, ListenProtocol, Risk, Role, Sensitivity, SvidMode
from hopseal.documents.read import API_VERSION, KIND, MAX_TTL_S, MIN_TTL_S
from hopseal.selectors import Posture

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS}
_LABEL: Schema = {"type": "string", "pattern": f"^{LABEL_PATTERN}$"}
_DIGESTS: Schema = {
    "type": "array",
    "items": {"type": "string", "pattern": f"^{DIGEST_PATTERN}$"},
    "uniqueItems": True,
}
_PATH: Schema = {"type": "string", "pattern": "^/"}
_ID: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_ID}
_TTL: Schema = {"type": "integer", "minimum": MIN_TTL_S, "maximum": MAX_TTL_S}
_FLAG: Schema = {"type": "boolean"}


def agent_schema() -> Schema:
    """JSON Schema (draft 2020-12) of one Agent document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hopseal Agent document",
        **_object(
            {
                "apiVersion": {"const": API_VERSION},
                "kind": {"const": KIND},
                "metadata": _object({"name": _LABEL}, "name"),
                "spec": _spec(),
            },
            *("apiVersion", "kind", "metadata", "spec"),
        ),
    }


def _spec() -> Schema:
    return _object(
        {
            "version": _TEXT,
            "description": _TEXT,
            "owner": _TEXT,
            "team": _TEXT,
            "status": _choice(AgentStatus),
            "capabilities": _list(_object({"name": _TEXT, "risk": _choice(Risk)}, "name", "risk")),
            "dataAccess": _list(
                _object({"resource": _TEXT, "sensitivity": _choice(Sensitivity)}, "resource", "sensitivity")
            ),
            "humanOversight": _object({"requiredFor": _texts(), "approvers": _texts()}),
            "components": {**_list(_component()), "minItems": 1},
        },
        *("owner", "components"),
    )


def _component() -> Schema:
    return _object(
        {
            "name": _LABEL,
            "role": _choice(Role),
            "mayStart": _FLAG,
            "attest": {"oneOf": [_attest(), {**_list(_attest()), "minItems": 1}]},
            "calls": _list({"oneOf": [_call(), _external()]}),
            "listen": {"type": "string", "pattern": LISTEN_PATTERN},
            "listenHost": {"type": "string", "pattern": f"^{HOST_PATTERN}$"},
            "listenProtocol": _choice(ListenProtocol),
            "acceptFrom": {**_list({"oneOf": [_TEXT, _accepted()]}), "uniqueItems": True},
            "spiffeId": {"type": "string", "pattern": "^spiffe://"},
            "svid": _choice(SvidMode),
            "hint": _TEXT,
            "x509SvidTtlSeconds": _TTL,
            "jwtSvidTtlSeconds": _TTL,
            "tools": _list(_object({"name": _TEXT, "risk": _choice(Risk)}, "name", "risk")),
        },
        *("name", "role", "attest"),
    )


def _call() -> Schema:
    return _object(
        {"to": _TEXT, "name": _TEXT, "custody": _choice(Custody), "operations": _operations()},
        "to",
    )


def _external() -> Schema:
    return _object(
        {
            "external": {"type": "string", "pattern": f"^{EXTERNAL_PATTERN}$"},
            "operations": _operations(),
            "sensitivity": _choice(Sensitivity),
            "opaque": _FLAG,
        },
        "external",
    )


def _accepted() -> Schema:
    return _object({"id": _TEXT, "custody": _choice(Custody)}, "id")


def _operations() -> Schema:
    operation = {"type": "string", "minLength": 1, "maxLength": MAX_OPERATION_CHARS}
    return {**_list(operation), "minItems": 1, "uniqueItems": True}


def _attest() -> Schema:
    files = {**_list(_PATH), "minItems": 1, "uniqueItems": True}
    return _object(
        {
            "image": _DIGESTS,
            "exe": _DIGESTS,
            "children": _DIGESTS,
            "config": _object({"files": files, "digest": {**_DIGESTS, "minItems": 1}}, "files", "digest"),
            "posture": _choice(Posture),
            "uid": _ID,
            "gid": _ID,
            "unit": {"type": "string", "pattern": f"^{UNIT_PATTERN}$"},
            "containerLabels": {"type": "object", "additionalProperties": _TEXT},
            "unsafeUidOnly": _FLAG,
            "forbidStaticSecrets": _FLAG,
        }
    )


def _object(properties: Schema, *required: str) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": list(required)} if required else {}),
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _texts() -> Schema:
    return {**_list(_TEXT), "uniqueItems": True}


def _choice(kind: type[StrEnum]) -> Schema:
    return {"enum": [str(each) for each in kind]}
