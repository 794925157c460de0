"""The JSON Schema of Agent documents: in step with the file in docs and never stricter than the parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from hopseal.cli.main import cli
from hopseal.documents.parse import parse_documents
from hopseal.documents.schema import agent_schema
from hopseal.ids import TrustDomain

ROOT = Path(__file__).resolve().parents[2]
VALIDATOR = jsonschema.Draft202012Validator(agent_schema())
EXAMPLE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "agents" / "crm-assistant.yaml").read_text())
DIGEST = "sha256:" + "a" * 64
EVERYTHING: dict[str, Any] = {
    "spiffeId": "spiffe://example.org/x",
    "listenHost": "localhost:8000",
    "listenProtocol": "h2",
    "acceptFrom": ["spiffe://example.org/*"],
    "svid": "both",
    "hint": "main",
    "x509SvidTtlSeconds": 60,
    "jwtSvidTtlSeconds": 60,
    "mayStart": False,
    "attest": [
        {
            "image": [DIGEST],
            "exe": [DIGEST],
            "gid": 1,
            "uid": 2,
            "unit": "x.service",
            "containerLabels": {"a": "b"},
            "posture": "baseline",
            "forbidStaticSecrets": True,
            "config": {"files": ["/x"], "digest": [DIGEST]},
        },
        {"uid": 9, "unsafeUidOnly": True},
    ],
}


def changed(**values: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(EXAMPLE))
    made["spec"]["components"][2] |= values
    return made


def test_the_file_in_docs_is_what_the_program_prints() -> None:
    printed = CliRunner().invoke(cli, ["agents", "schema"]).stdout
    assert printed == (ROOT / "docs" / "agent.schema.json").read_text(), (
        "hopseal agents schema > docs/agent.schema.json"
    )


@pytest.mark.parametrize("document", [EXAMPLE, changed(**EVERYTHING)], ids=["example", "every key"])
def test_what_the_parser_accepts_the_schema_accepts(document: dict[str, Any]) -> None:
    parse_documents({"x.yaml": yaml.safe_dump(document).encode()}, TrustDomain.parse("example.org"))
    VALIDATOR.validate(document)


@pytest.mark.parametrize(
    "values",
    [
        {"colour": "red"},
        {"role": "robot"},
        {"attest": []},
        {"attest": {"uid": -1}},
        {"attest": {"exe": ["x"]}},
        {"attest": {"config": {"files": ["/x"]}}},
        {"listen": "/x"},
        {"calls": [{"operations": ["GET /"]}]},
        {"x509SvidTtlSeconds": 1},
        {"name": "Upper"},
    ],
    ids=str,
)
def test_a_mistake_of_shape_is_one_for_the_schema_too(values: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(changed(**values))
