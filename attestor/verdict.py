"""The verdict on a process, as the APIs receive it.

Owns: the shapes. Does not own: reaching a verdict (``attestor.matching``) or keeping it true
(``attestor.attestation``).
"""

from __future__ import annotations

from dataclasses import dataclass

from attestor.states import State
from hopseal.documents.model import SvidMode
from hopseal.ids import SpiffeId
from hopseal.selectors import Selector

BROKER_COMPONENT = "hopseal/broker"


@dataclass(frozen=True, slots=True)
class Match:
    """One identity that a process has.

    Args:
        spiffe_id: the identity.
        qualified: ``agent/component``, or ``hopseal/broker`` for a broker of this node.
        selectors: everything that was measured, plus agent, component and role.
        svid: who may hold the key.
        hint: tells several SVIDs apart; may be empty.
    """

    spiffe_id: SpiffeId
    qualified: str
    selectors: frozenset[Selector]
    svid: SvidMode
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Attested:
    """Every item of one alternative holds for each of ``matches``.

    Args:
        matches: at least one, ordered by SPIFFE ID; several when the process is several components.
        instance: what limits and withdrawals are bound to, e.g. ``docker:<id>`` or ``cgroup:<path>``.
        generation: grows with each verdict on this process.
    """

    matches: tuple[Match, ...]
    instance: str
    generation: int


@dataclass(frozen=True, slots=True)
class Refused:
    """No identity. The last verdict of a watch.

    Args:
        state: what the process is instead.
        code: stable reason code, see ``attestor.states.REASONS`` and the evidence codes.
        message: one sentence that is safe for the caller.
        retry: asking again later may help without anything being corrected.
    """

    state: State
    code: str
    message: str
    retry: bool = False


Verdict = Attested | Refused
