"""What every service of the Workload API socket holds to: who is served there, and what a denied caller hears.

Owns: these two rules. Does not own: any method.
"""

from __future__ import annotations

from attestor.verdict import BROKER_COMPONENT, Match
from hopseal.documents.model import SvidMode
from hopseal.errors import DeniedError


def is_served_here(match: Match) -> bool:
    """Whether the document lets the component itself hold the keys of this identity."""
    return match.qualified == BROKER_COMPONENT or match.svid in {SvidMode.WORKLOAD_API, SvidMode.BOTH}


def describe_denial(_error: DeniedError) -> str:
    """SPIRE's words, which clients know; why is for the operator, not for a process that may be an impostor."""
    return "no identity issued"
