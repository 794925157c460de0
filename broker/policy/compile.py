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
5. ``acceptFrom`` forbids whoever it does not list, and permits whoever it lists and no document names.
6. A documented component without ``mayStart`` may not begin a chain.
7. Components of an agent that is not active neither call nor are called.

Source: docs, section The Agent document.
"""

from __future__ import annotations

import re

from hopseal.documents.grammar import A2A_METHODS
from hopseal.documents.model import Agent, AgentStatus, Call, Component, DocumentSet

_HTTP_PATTERN = re.compile(r"[A-Z]+ /.*", re.ASCII | re.DOTALL)
_PLAIN = re.compile(r"[ !#-)+-\[\]-~]", re.ASCII)  # printable ASCII that means itself in a Cedar string and pattern
_ACTION = 'action == Hopseal::Action::"call"'
_READABLE = '(context.protocol == "mcp" || context.protocol == "a2a")'
_MCP_IMPLIED = (
    '(context.protocol == "mcp" && (context.operation == "initialize" || context.operation like "notifications/*"))',
    "context.mcp_session",
)
_A2A_IMPLIED = 'context.http == "GET /.well-known/agent-card.json"'
# What only A2A's methods begin with; tasks/get, tasks/list and tasks/cancel are MCP's too.
_A2A_ONLY = ("message/", "agent/", "tasks/pushNotificationConfig/", "tasks/resubscribe")


def compile_policies(documents: DocumentSet) -> str:
    """The Cedar text of everything that ``documents`` permit and forbid."""
    pieces = [each for agent in documents.agents for each in (compile_agent(agent, documents), compile_status(agent))]
    return "\n".join(filter(None, pieces))


def compile_agent(agent: Agent, documents: DocumentSet) -> str:
    """What the document of an active agent permits and forbids; empty for any other."""
    if agent.status is not AgentStatus.ACTIVE:
        return ""
    return _join([policy for each in agent.components for policy in _compile_component(each, documents)])


def compile_status(agent: Agent) -> str:
    """What forbids everything to an agent that is not active; empty for an active one."""
    if agent.status is AgentStatus.ACTIVE:
        return ""
    return _join([policy for each in agent.components for policy in _compile_inactive(agent, each)])


def quote(text: str) -> str:
    """``text`` as a Cedar string literal that means exactly ``text``."""
    return '"' + "".join("*" if each == "*" else _escape(each) for each in text) + '"'


def quote_pattern(pattern: str) -> str:
    """``pattern`` as a Cedar ``like`` pattern: ``*`` at its end is a wildcard, every other one is itself."""
    body, wildcard = (pattern[:-1], "*") if pattern.endswith("*") else (pattern, "")
    return '"' + "".join(r"\*" if each == "*" else _escape(each) for each in body) + wildcard + '"'


def _join(policies: list[str]) -> str:
    return "\n\n".join(policies) + "\n" if policies else ""


def _compile_component(component: Component, documents: DocumentSet) -> list[str]:
    policies = [_compile_call(component, call, documents) for call in component.calls]
    if component.accept_from is not None:
        policies += _compile_accept_from(component, component.accept_from)
    if not component.may_start:
        policies.append(
            _policy(
                "forbid",
                f"{component.qualified} may not start",
                f"principal == {_uid(component)}",
                "resource",
                "when { context.hop == 0 }",
            )
        )
    return [policy for policy in policies if policy]


def _compile_call(caller: Component, call: Call, documents: DocumentSet) -> str:
    callee = documents.component(call.qualified)
    # The parser refuses calls to nobody; a set that was built otherwise permits nothing by them.
    if callee is None:
        return ""
    condition = "" if not call.operations else f"when {{ {_compile_operations(call.operations)} }}"
    return _policy(
        "permit",
        f"{caller.qualified} calls {call.qualified}",
        f"principal == {_uid(caller)}",
        f"resource == {_uid(callee)}",
        condition,
    )


def _compile_operations(patterns: tuple[str, ...]) -> str:
    http = [pattern for pattern in patterns if _HTTP_PATTERN.fullmatch(pattern)]
    named = [pattern for pattern in patterns if not _HTTP_PATTERN.fullmatch(pattern)]
    terms = [_match("context.http", pattern) for pattern in http]
    if named:
        matches = " || ".join(_match("context.operation", pattern) for pattern in named)
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
    listed = " || ".join(_match("context.caller", pattern) for pattern in accepted) or "false"
    resource = f"resource == {_uid(component)}"
    return [
        _policy("forbid", f"{component.qualified} acceptFrom", "principal", resource, f"unless {{ {listed} }}"),
        _policy(
            "permit",
            f"{component.qualified} acceptFrom",
            "principal",
            resource,
            f"when {{ !context.caller_documented && ({listed}) }}",
        ),
    ]


def _compile_inactive(agent: Agent, component: Component) -> list[str]:
    name = f"{agent.name} is {agent.status.value}"
    return [
        _policy("forbid", name, f"principal == {_uid(component)}", "resource", ""),
        _policy("forbid", name, "principal", f"resource == {_uid(component)}", ""),
    ]


def _policy(effect: str, name: str, principal: str, resource: str, condition: str) -> str:
    text = f"@id({quote(name)})\n{effect}({principal}, {_ACTION}, {resource})"
    return f"{text}\n{condition};" if condition else f"{text};"


def _match(attribute: str, pattern: str) -> str:
    if pattern.endswith("*"):
        return f"{attribute} like {quote_pattern(pattern)}"
    return f"{attribute} == {quote(pattern)}"


def _uid(component: Component) -> str:
    return f"Hopseal::Component::{quote(str(component.spiffe_id))}"


def _escape(character: str) -> str:
    return character if _PLAIN.fullmatch(character) else f"\\u{{{ord(character):x}}}"
