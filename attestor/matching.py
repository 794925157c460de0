"""Evidence against what is approved, item by item. Pure.

Owns: whether each item of each alternative holds, and what follows for each component.
Does not own: measuring, the approved set, or what happened before (``attestor.attestation``).

Rules
1. A component matches when every item of one alternative holds. An alternative without
   items, or with nothing but a uid and no ``unsafeUidOnly``, never matches.
2. An item that cannot be read does not hold.
3. A process that does not match may still *claim* a component; then it is refused, with the
   items that differ, instead of being unknown. It claims a component when
   a. it, or its container, was attested as that component before; or
   b. an *identifying* item of one alternative holds. With ``image`` the identifying items
      are image, config and container labels; without it ``unit`` and ``uid`` (never uid 0),
      or, if neither is asked for, ``exe``, or, if that is not either, ``config``. Shared
      interpreters and root are nobody's mark, so that not every Python program of the node
      is refused as every component.
4. A process that is one component claims no other, unless it was attested as that one itself. One
   that is none claims what it was seen as, else only what it is closest to.
5. Where nothing differs and the identifying items cannot be read, it cannot be told whether the
   process is the component: that is unreadable, not unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attestor.approved import Approval, ApprovedSet
from attestor.facts import Evidence
from attestor.items import Item, Outcome, measure_items
from attestor.states import Finding
from attestor.verdict import Match
from hopseal.documents.model import AgentStatus, AttestBlock
from hopseal.selectors import Selector


@dataclass(frozen=True, slots=True)
class Alternative:
    """One alternative of ``attest``, compared; ``claimed`` by rule 3b."""

    items: tuple[Item, ...]
    claimed: bool

    @property
    def holds(self) -> bool:
        """Every item holds, and there is at least one (rule 1)."""
        return bool(self.items) and all(item.outcome is Outcome.HOLDS for item in self.items)

    @property
    def differing(self) -> Item | None:
        """The first item that was measured and is not what was approved."""
        return next((item for item in self.items if item.outcome is Outcome.DIFFERS), None)

    @property
    def unreadable(self) -> Item | None:
        """The first item that could not be read."""
        return next((item for item in self.items if item.outcome is Outcome.UNREADABLE), None)

    @property
    def closeness(self) -> tuple[int, int, int]:
        """Larger is closer to being approved: claimed, items that hold, fewer that differ."""
        holding = sum(item.outcome is Outcome.HOLDS for item in self.items)
        differing = sum(item.outcome is Outcome.DIFFERS for item in self.items)
        return (int(self.claimed), holding, -differing)


@dataclass(frozen=True, slots=True)
class ComponentResult:
    """What was found for one component.

    Args:
        finding: NO_DOCUMENT when the process does not claim this component.
        alternatives: in the document's order.
        best: the one that holds, else the closest.
    """

    approval: Approval
    finding: Finding
    alternatives: tuple[Alternative, ...]
    best: Alternative

    @property
    def item(self) -> Item | None:
        """The item that decided against the process, if one did."""
        if self.finding is Finding.UNREADABLE:
            return self.best.unreadable
        return self.best.differing if self.finding is Finding.DIFFERS else None


@dataclass(frozen=True, slots=True)
class Decision:
    """What was found about one process.

    Args:
        results: of the components that the process is or claims; the closest first.
    """

    results: tuple[ComponentResult, ...]

    @property
    def holding(self) -> tuple[ComponentResult, ...]:
        """The components that the process is and whose agents are active."""
        return tuple(result for result in self.results if result.finding is Finding.HOLDS)

    @property
    def lead(self) -> ComponentResult | None:
        """The component that the process is, or is closest to."""
        return self.results[0] if self.results else None


def decide(
    evidence: Evidence,
    approved: ApprovedSet,
    seen_as: frozenset[str] = frozenset(),
    attested_as: frozenset[str] = frozenset(),
) -> Decision:
    """What ``evidence`` makes of a process.

    Args:
        evidence: measured for the config files that :func:`wanted_config` names.
        approved: what is approved now.
        seen_as: qualified names that the process or its container was attested as before.
        attested_as: those of them that the process itself was attested as.
    """
    results = [compare(evidence, approval, seen_as) for approval in approved.approvals]
    claimed = [result for result in results if result.finding is not Finding.NO_DOCUMENT]
    kept = _most_telling(claimed, seen_as, attested_as)
    return Decision(tuple(sorted(kept, key=_rank, reverse=True)))


def _most_telling(
    claimed: list[ComponentResult], seen_as: frozenset[str], attested_as: frozenset[str]
) -> list[ComponentResult]:
    """Rule 4: programs that share an image or interpreter are not refused as each other."""
    if any(result.best.holds for result in claimed):
        return [each for each in claimed if each.best.holds or each.approval.qualified in attested_as]
    seen = [each for each in claimed if each.approval.qualified in seen_as]
    if seen or not claimed:
        return seen
    closest = max(each.best.closeness for each in claimed)
    return [each for each in claimed if each.best.closeness == closest]


def compare(evidence: Evidence, approval: Approval, seen_as: frozenset[str] = frozenset()) -> ComponentResult:
    """What ``evidence`` makes of a process as regards one component."""
    alternatives = tuple(_alternative(evidence, block) for block in approval.alternatives)
    holding = next((each for each in alternatives if each.holds), None)
    best = holding or max(alternatives, key=lambda each: each.closeness)
    if holding is not None:
        finding = _STATUS_FINDING[approval.status]
    elif best.claimed or approval.qualified in seen_as:
        finding = Finding.UNREADABLE if best.differing is None else Finding.DIFFERS
    else:
        finding = Finding.UNREADABLE if any(map(_cannot_tell, alternatives)) else Finding.NO_DOCUMENT
        best = next(filter(_cannot_tell, alternatives), best)
    return ComponentResult(approval, finding, alternatives, best)


def build_matches(decision: Decision, measured: frozenset[Selector]) -> tuple[Match, ...]:
    """The identities of a process, ordered by SPIFFE ID; ``measured`` are its measured selectors."""
    matches = (
        Match(
            spiffe_id=result.approval.spiffe_id,
            qualified=result.approval.qualified,
            selectors=measured | result.approval.selectors,
            svid=result.approval.svid,
            hint=result.approval.hint,
        )
        for result in decision.holding
    )
    return tuple(sorted(matches, key=lambda match: match.spiffe_id))


def wanted_config(approved: ApprovedSet, uid: int) -> frozenset[tuple[str, ...]]:
    """The sets of files that must be measured to judge a process that runs as ``uid``."""
    return frozenset(
        block.config.files
        for approval in approved.approvals
        for block in approval.alternatives
        if block.config is not None and block.uid in {None, uid}
    )


def wants_children(approved: ApprovedSet, uid: int) -> bool:
    """Whether judging a process that runs as ``uid`` needs what the processes below it execute."""
    return any(
        block.children and block.uid in {None, uid}
        for approval in approved.approvals
        for block in approval.alternatives
    )


def narrow_config(evidence: Evidence, approved: ApprovedSet) -> frozenset[tuple[str, ...]]:
    """Of the sets of files only those whose alternative has no other item that differs.

    For nodes with very many documents: a process that differs elsewhere cannot become a component by its
    files, so they are not read; all that is lost is that holding files alone count as a claim.
    """
    return frozenset(
        block.config.files
        for approval in approved.approvals
        for block in approval.alternatives
        if block.config is not None
        and all(item.outcome is not Outcome.DIFFERS for item in measure_items(evidence, block))
    )


_STATUS_FINDING = {
    AgentStatus.ACTIVE: Finding.HOLDS,
    AgentStatus.SUSPENDED: Finding.SUSPENDED,
    AgentStatus.RETIRED: Finding.RETIRED,
}
_FINDING_RANK = {
    Finding.HOLDS: 2,
    Finding.SUSPENDED: 1,
    Finding.RETIRED: 1,
    Finding.DIFFERS: 0,
    Finding.UNREADABLE: 0,
}


def _rank(result: ComponentResult) -> tuple[int, tuple[int, int, int]]:
    return (_FINDING_RANK[result.finding], result.best.closeness)


def _alternative(evidence: Evidence, block: AttestBlock) -> Alternative:
    items = measure_items(evidence, block)
    identifying = identifying_items(block)
    claimed = any(item.outcome is Outcome.HOLDS and item.name in identifying for item in items)
    return Alternative(items, claimed)


def _cannot_tell(alternative: Alternative) -> bool:
    return alternative.unreadable is not None and alternative.differing is None


def identifying_items(block: AttestBlock) -> frozenset[str]:
    """Names of the items of ``block`` whose holding alone is a claim (rule 3b)."""
    if block.image:
        return frozenset({"image", "config", "container_labels"})
    named = _declared(
        (("unit", block.unit is not None), ("uid", bool(block.uid)), ("container_labels", bool(block.container_labels)))
    )
    return named or frozenset({"exe"} if block.exe else {"config"})


def _declared(items: Iterable[tuple[str, bool]]) -> frozenset[str]:
    return frozenset(name for name, declared in items if declared)
