"""The Cedar schema that every policy is checked against. Pure.

Owns: the request's shape. Attributes of components are optional, because a caller without a local
document is an entity without attributes: a policy that reads one must ask for it first.
"""

from __future__ import annotations

import cedarpy

from hopseal.errors import InvalidError

SCHEMA = """
namespace Hopseal {
  entity Agent;
  entity Component in [Agent] = {
    agent?: String,
    name?: String,
    role?: String,
    team?: String,
  };
  entity External;
  action call appliesTo {
    principal: [Component],
    resource: [Component, External],
    context: {
      caller: String,
      callee: String,
      caller_documented: Bool,
      side: String,
      protocol: String,
      http: String,
      operation: String,
      method: String,
      path: String,
      mcp_session: Bool,
      hop: Long,
      user: String,
      user_issuer: String,
      user_verified: Bool,
      chain: Set<String>,
      recorded: Bool,
      task?: String,
      approvals: Set<String>,
      approved_by: Set<String>,
    },
  };
}
"""


def check_policies(text: str, *, name: str) -> None:
    """Check that ``text`` is Cedar and fits the schema.

    Raises:
        InvalidError: it does not (``policy_invalid``); ``name`` says whose text it is.
    """
    result = cedarpy.validate_policies(text, SCHEMA)
    if not result.validation_passed:
        detail = " ".join("; ".join(map(str, result.errors)).split())
        raise InvalidError(
            "policy_invalid", f"{name}: {detail}", remedy="correct it; the policies in use stay in force"
        )
