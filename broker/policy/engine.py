"""Policies that decide nothing, for checks, tests and explanations: evaluated by the data plane's own code.

Owns: loading the compiled module and its errors as ours. Does not own: verdicts. A second engine, however close, would
sooner or later say something else than the one that decides calls.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

from hopseal.errors import InvalidError, UnavailableError


def schema_text() -> str:
    """The published Cedar schema.

    Raises:
        UnavailableError: the compiled module is not installed (``dataplane_missing``).
    """
    return str(_module().policy_schema())


class PolicyEngine:
    """Policy sets and facts, parsed and validated.

    Args:
        sets: JSON text of ``broker.policy.sets.encode_sets``.
        facts: JSON text of ``broker.policy.facts.encode_facts``.

    Raises:
        InvalidError: they have mistakes (``policy_invalid``), a line of ``detail`` each.
        UnavailableError: the compiled module is not installed (``dataplane_missing``).
    """

    def __init__(self, sets: str, facts: str) -> None:
        module = _module()
        self._error: type[Exception] = module.DataPlaneError
        try:
            self._sets = module.PolicySets(sets, facts)
        except module.DataPlaneError as error:
            raise InvalidError(
                "policy_invalid",
                "the policies have mistakes",
                detail=str(error.args[1]),
                remedy="correct them; `hopseal policy schema` prints what a policy can ask",
            ) from error

    def __len__(self) -> int:
        """How many policies there are."""
        return len(self._sets)

    def explain(self, question: dict[str, Any]) -> dict[str, Any]:
        """The decision on ``question``, with the rules that made it.

        Raises:
            InvalidError: it is malformed (``question_invalid``).
        """
        try:
            found: dict[str, Any] = json.loads(self._sets.explain(json.dumps(question)))
        except self._error as error:
            raise InvalidError("question_invalid", str(error.args[1])) from error
        return found


def _module() -> Any:
    try:
        return importlib.import_module("broker._dataplane")
    except ImportError as error:
        raise UnavailableError(
            "dataplane_missing",
            "the broker's compiled data plane is not installed, and it judges policies",
            detail=str(error),
            remedy="install hopseal-node, or build it with `make rust`",
        ) from error
