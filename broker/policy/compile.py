"""Agent documents as Cedar text. Pure.

Owns: what ``calls``, ``acceptFrom`` and ``mayStart`` mean as policies. Does not own: evaluation.

Rules:
1. Nothing is permitted that no document says: Cedar denies what no policy permits.
2. ``calls`` without operations permits every operation between the two components.
3. A pattern ``<METHOD> <path>`` is compared with ``context.http``; any other with ``context.operation``
   of a readable JSON-RPC call. One that an MCP method can match implies ``initialize``, ``notifications/*`` and the
   session's GET and DELETE (of a path that ends in ``/mcp``; for an endpoint elsewhere they are listed as
   ``<METHOD> <path>``); one that an A2A method can match implies reading the agent card.
4. ``*`` at the end of a pattern stands for any text; everywhere else it is itself.
5. ``acceptFrom`` forbids whoever it does not list, and permits whoever it lists and no document names; who need not
   bring custody is permitted to call without.
6. A documented component without ``mayStart`` may not begin a chain; a call without custody begins none.
7. Components of an agent that is not active neither call nor are called.

Source: docs, section The Agent document.
"""

from __future__ import annotations

import re

from broker.policy.cedar import match, policy, uid
from broker.policy.outside import compile_outside, unrecorded
from hopseal.documents.grammar import A2A_METHODS
from hopseal.documents.model import Agent, AgentStatus, Call, Component, DocumentSet

_HTTP_PATTERN = re.compile(r"[A-Z]+ /.*", re.ASCII | re.DOTALL)
_READABLE = '(context.protocol == "mcp" || context.protocol == "a2a")'
_MCP_IMPLIED = (
    '(context.protocol == "mcp" && (context.operation == "initialize" || context.operation like "notifications/*"))',
    "context.mcp_session",
)
_A2A_IMPLIED = 'context.http == "GET /.well-known/agent-card.json"'
# What only A2A's methods begin with; tasks/get, tasks/list and tasks/cancel are MCP's too.
_A2A_ONLY = ("message/", "agent/", "tasks/pushNotificationConfig/", "tasks/resubscribe")


def compile_agent(agent: Agent, documents: DocumentSet) -> str:
    """What the document of an active agent permits and forbids; empty for any other."""
    if agent.status is not AgentStatus.ACTIVE:
        return ""
    return _join([rule for each in agent.components for rule in _compile_component(each, documents)])


def compile_status(agent: Agent) -> str:
    """What forbids everything to an agent that is not active; empty for an active one."""
    if agent.status is AgentStatus.ACTIVE:
        return ""
    return _join([rule for each in agent.components for rule in _compile_inactive(agent, each)])


def _join(policies: list[str]) -> str:
    return "\n\n".join(policies) + "\n" if policies else ""


def _compile_component(component: Component, documents: DocumentSet) -> list[str]:
    policies = [_compile_call(component, call, documents) for call in component.calls]
    policies += compile_outside(component, _compile_operations)
    if component.accept_from is not None:
        policies += _compile_accept_from(component, component.accept_from)
    if not component.may_start:
        policies.append(
            policy(
                "forbid",
                f"{component.qualified} may not start",
                f"principal == {uid(component)}",
                "resource",
                "when { context.hop == 0 && context.recorded }",
            )
        )
    return [each for each in policies if each]


def _compile_call(caller: Component, call: Call, documents: DocumentSet) -> str:
    callee = documents.component(call.qualified)
    # The parser refuses calls to nobody; a set that was built otherwise permits nothing by them.
    if callee is None:
        return ""
    condition = "" if not call.operations else f"when {{ {_compile_operations(call.operations)} }}"
    return policy(
        "permit",
        f"{caller.qualified} calls {call.qualified}",
        f"principal == {uid(caller)}",
        f"resource == {uid(callee)}",
        condition,
    )


def _compile_operations(patterns: tuple[str, ...]) -> str:
    http = [pattern for pattern in patterns if _HTTP_PATTERN.fullmatch(pattern)]
    named = [pattern for pattern in patterns if not _HTTP_PATTERN.fullmatch(pattern)]
    terms = [match("context.http", pattern) for pattern in http]
    if named:
        matches = " || ".join(match("context.operation", pattern) for pattern in named)
        terms.append(f"({_READABLE} && ({matches}))")
    if any(not pattern.startswith(_A2A_ONLY) for pattern in named):
        terms += _MCP_IMPLIED
    if any(_is_of_a2a(pattern) for pattern in named):
        terms.append(_A2A_IMPLIED)
    return " || ".join(terms)


def operation_protocol(operation: str) -> str:
    """``a2a`` for what only A2A's methods begin with, else ``mcp``."""
    return "a2a" if operation.startswith(_A2A_ONLY) else "mcp"


def _is_of_a2a(pattern: str) -> bool:
    """Whether a method of A2A can match."""
    method = pattern.partition(" ")[0]
    if pattern.endswith("*") and method == pattern:
        return any(known.startswith(method[:-1]) for known in A2A_METHODS)
    return method in A2A_METHODS


def _compile_accept_from(component: Component, accepted: tuple[str, ...]) -> list[str]:
    plain = unrecorded(component)
    listed = " || ".join(match("context.caller", pattern) for pattern in accepted) or "false"
    full = f"(context.recorded && ({listed}))"
    resource = f"resource == {uid(component)}"
    return [
        policy("forbid", f"{component.qualified} acceptFrom", "principal", resource, f"unless {{ {full} || {plain} }}"),
        policy(
            "permit",
            f"{component.qualified} acceptFrom",
            "principal",
            resource,
            f"when {{ {plain} || (!context.caller_documented && {full}) }}",
        ),
    ]


def _compile_inactive(agent: Agent, component: Component) -> list[str]:
    name = f"{agent.name} is {agent.status.value}"
    return [
        policy("forbid", name, f"principal == {uid(component)}", "resource", ""),
        policy("forbid", name, "principal", f"resource == {uid(component)}", ""),
    ]
