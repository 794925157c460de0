"""The states of a component's process, as a table.

Owns: the states, what may be found about a process, which state follows, and the
reason codes of this package with what each asks of the operator.
Does not own: finding anything out (``attestor.matching``) or remembering it (``attestor.registry``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from hopseal.errors import BugError


class State(StrEnum):
    """What an operator sees of a process or a component."""

    UNKNOWN = "unknown"
    ATTESTED = "attested"
    DRIFTED = "drifted"
    REFUSED = "refused"
    SUSPENDED = "suspended"
    RETIRED = "retired"
    UNREADABLE = "unreadable"
    GONE = "gone"


class Finding(StrEnum):
    """What one look at a process and at the documents found."""

    NO_DOCUMENT = "no document"
    HOLDS = "every item holds"
    DIFFERS = "an item differs"
    UNREADABLE = "an item cannot be read"
    SUSPENDED = "agent is suspended"
    RETIRED = "agent is retired"
    ENDED = "process ended"


_FROM_FRESH: Mapping[Finding, State] = {
    Finding.NO_DOCUMENT: State.UNKNOWN,
    Finding.HOLDS: State.ATTESTED,
    Finding.DIFFERS: State.REFUSED,
    Finding.UNREADABLE: State.UNREADABLE,
    Finding.SUSPENDED: State.SUSPENDED,
    Finding.RETIRED: State.RETIRED,
    Finding.ENDED: State.GONE,
}
# What was attested once and is not what was approved any more is drift, whether an item
# changed or the documents did; it stays drift until it is attested again.
_FROM_ATTESTED: Mapping[Finding, State] = {
    **_FROM_FRESH,
    Finding.NO_DOCUMENT: State.DRIFTED,
    Finding.DIFFERS: State.DRIFTED,
}

TRANSITIONS: Mapping[State, Mapping[Finding, State]] = MappingProxyType(
    {
        State.UNKNOWN: _FROM_FRESH,
        State.ATTESTED: _FROM_ATTESTED,
        State.DRIFTED: _FROM_ATTESTED,
        State.REFUSED: _FROM_FRESH,
        State.SUSPENDED: _FROM_ATTESTED,
        State.RETIRED: _FROM_ATTESTED,
        State.UNREADABLE: _FROM_FRESH,
        State.GONE: {Finding.ENDED: State.GONE},
    }
)


def next_state(state: State, finding: Finding) -> State:
    """The state that follows ``state`` once ``finding`` was found.

    Raises:
        BugError: the table has no such step (``state_impossible``): something was found about a process that is gone.
    """
    following = TRANSITIONS[state].get(finding)
    if following is None:
        raise BugError(
            "state_impossible", "a state was asked for that the table does not have", detail=f"{state} + {finding}"
        )
    return following


class Layer(StrEnum):
    """Which part of the node refused."""

    PEER = "peer"
    EVIDENCE = "evidence"
    DOCUMENTS = "documents"
    STATUS = "status"
    UPSTREAM = "upstream"
    BROKER = "broker"


@dataclass(frozen=True, slots=True)
class Reason:
    """What a reason code means.

    Args:
        layer: which part of the node decided.
        message: one sentence that is safe for the caller.
        remedy: what the operator does next.
    """

    layer: Layer
    message: str
    remedy: str


REASONS: Mapping[str, Reason] = MappingProxyType(
    {
        "attested": Reason(Layer.EVIDENCE, "every attested item holds", ""),
        "no_document": Reason(
            Layer.DOCUMENTS,
            "no Agent document approves this process",
            "draft one with `hopseal agents init`, or correct the identifying items of the document that is meant",
        ),
        "documents_unavailable": Reason(
            Layer.DOCUMENTS,
            "no valid set of Agent documents is loaded",
            "run `hopseal agents check` and correct the named lines",
        ),
        "documents_changed": Reason(
            Layer.DOCUMENTS,
            "the Agent documents no longer approve this process",
            "if it is still meant to run, approve it with `hopseal agents approve` and review the change",
        ),
        "agent_suspended": Reason(
            Layer.STATUS, "the agent is suspended", "`hopseal agents resume`, or `status: active` in the document"
        ),
        "agent_retired": Reason(
            Layer.STATUS,
            "the agent is retired",
            "a retired agent comes back only by `hopseal agents resume` or its document",
        ),
        "process_exited": Reason(Layer.PEER, "the process exited", "start it again"),
        "container_stopped": Reason(Layer.PEER, "the container stopped", "start it again"),
        "evidence_unreadable": Reason(
            Layer.EVIDENCE, "evidence that the document asks for could not be read", "see the item's detail"
        ),
        "attestation_timeout": Reason(
            Layer.EVIDENCE,
            "the evidence could not be read in time",
            "look at the load of the node and at the container engine's socket",
        ),
        "container_entered": Reason(
            Layer.EVIDENCE,
            "the process was started in the container from outside",
            "only processes that the container itself started are attested; restart the container to clear it",
        ),
        "rate_limited": Reason(
            Layer.PEER,
            "too many attestations were asked for",
            "find out what starts so many processes, or raise `limits` in attestor.yaml",
        ),
        "too_many_processes": Reason(
            Layer.PEER, "the attestor watches as many processes as it may", "raise `limits.processes` in attestor.yaml"
        ),
        "attestor_failed": Reason(
            Layer.EVIDENCE, "the attestor failed on this process", "see the attestor's log and report it"
        ),
        "not_running": Reason(
            Layer.PEER, "no process of this component is known on this node", "start it, or let it call the attestor"
        ),
        **{
            f"forbid_static_secrets_{suffix}": Reason(
                Layer.EVIDENCE,
                "a static credential lies open in the environment or in a declared file",
                "take it out of the named place and revoke it; a component's SVID is its credential",
            )
            for suffix in ("mismatch", "changed")
        },
        "svid_none": Reason(
            Layer.UPSTREAM,
            "attested, but the upstream issues no SVID for it",
            "`hopseal entries sync` writes the registration entries that SPIRE lacks",
        ),
        **{
            f"{item}_{suffix}": Reason(Layer.EVIDENCE, message.format(noun), remedy)
            for item, noun, remedy in (
                ("uid", "user", "run it as the approved user, or approve this one"),
                ("gid", "group", "run it with the approved group, or approve this one"),
                ("unit", "systemd unit or cgroup", "start it by its unit, or approve this one"),
                ("exe", "executable", "start the approved build, or approve this one with `hopseal agents approve`"),
                ("children", "program of a process below it", "start only approved programs, or approve this one"),
                ("image", "image", "run the approved image, or approve this one with `hopseal agents approve`"),
                (
                    "config",
                    "configuration",
                    "restore the approved files, or approve these with `hopseal agents approve`",
                ),
                ("posture", "posture", "correct the named controls, or lower the posture that the document asks for"),
                ("unsafe_uid_only", "single item, a user id,", "attest an executable, unit or image as well"),
                ("instance", "container or cgroup", "start it again where it belongs"),
                ("container_labels", "container label", "start the container with the approved labels"),
            )
            for suffix, message in (
                ("mismatch", "the {} is not what was approved"),
                ("changed", "the {} changed and is no longer what was approved"),
            )
        },
    }
)


MEANINGS: Mapping[State, str] = MappingProxyType(
    {
        State.UNKNOWN: "asked for an identity and claims no component",
        State.ATTESTED: "every item of one alternative holds and the agent is active",
        State.DRIFTED: "was attested and no longer is what is approved: withdrawn",
        State.REFUSED: "claims a component and does not satisfy its document",
        State.SUSPENDED: "is what was approved, but its agent is suspended",
        State.RETIRED: "is what was approved, but its agent is retired",
        State.UNREADABLE: "evidence that the document asks for could not be read: refused",
        State.GONE: "exited, or its container stopped",
    }
)

_PAGE = """\
# States of a component

Drawn from `attestor/states.py` by `python -m attestor.states`; a test keeps it so.

## States

{meanings}

A component is `attested` while one of its processes on this node is; else it is `suspended` or `retired`
if its agent is, else what happened to it last. `hopseal explain` shows every item, approved against measured.

## Transitions

What was attested once drifts; what never was is refused. Columns are what one look at the process found.

{transitions}

## Claims

A process that satisfies no document is `refused` if it claims a component and `unknown` if it does not. It
claims a component when it, or its container, was attested as that component before, or when an identifying
item of one alternative holds:

| the alternative asks for | identifying items |
| --- | --- |
| `image` | `image`, `config`, `containerLabels` |
| no `image` | `unit`, `uid` (never uid 0), `containerLabels` |
| none of these | `exe` |
| no `exe` either | `config` |

A process that is one component claims no other, unless it was attested as that one itself; one that is none
claims what it was attested as, else only what it is closest to. Where nothing differs and something could not
be read, the process is `unreadable`. A declared file that does not exist is an answer, and differs.

## Reason codes

Codes of evidence that could not be read (`engine_unavailable`, `config_symlink_refused`, …) stand beside
these; `hopseal explain` gives their detail.

{reasons}
"""


def render_page() -> str:
    """``docs/states.md``."""
    meanings = "\n".join(f"- **{state}**: {meaning}" for state, meaning in MEANINGS.items())
    return _PAGE.format(meanings=meanings, transitions=render_table(), reasons=render_reasons())


def render_table() -> str:
    """The transition table as a Markdown table: one row for each state, one column for each finding."""
    findings = tuple(Finding)
    lines = [
        "| state | " + " | ".join(findings) + " |",
        "| --- |" + " --- |" * len(findings),
    ]
    for state, row in TRANSITIONS.items():
        cells = (row[finding].value if finding in row else "-" for finding in findings)
        lines.append(f"| {state} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def render_reasons() -> str:
    """The reason codes as a Markdown table, in the order of the code."""
    lines = ["| code | layer | meaning | what to do |", "| --- | --- | --- | --- |"]
    lines += [f"| `{code}` | {r.layer} | {r.message} | {r.remedy} |" for code, r in sorted(REASONS.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(render_page())
