"""Policies for the command line: read once, from the broker's configuration or from folders.

Owns: putting documents and files together as the broker does. Does not own: following them (``follow``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from broker.config import load_config
from broker.policy.config import PolicyConfig
from broker.policy.engine import PolicyEngine
from broker.policy.facts import encode_facts
from broker.policy.files import read_files
from broker.policy.sets import PolicySet, document_sets, encode_sets, unknown_sets
from hopseal.documents.load import load_documents
from hopseal.documents.model import DocumentSet
from hopseal.errors import InvalidError
from hopseal.ids import TrustDomain


@dataclass(frozen=True, slots=True)
class Sources:
    """Where documents and policies are."""

    documents: Path
    trust_domain: TrustDomain
    policies: PolicyConfig


@dataclass(frozen=True, slots=True)
class Loaded:
    """Documents and policies, read and validated."""

    documents: DocumentSet
    sets: tuple[PolicySet, ...]
    engine: PolicyEngine


def configured_sources(config: Path) -> Sources:
    """What the broker with the configuration file ``config`` uses."""
    found = load_config(config)
    return Sources(found.documents, found.trust_domain, found.policies)


def load_sources(sources: Sources) -> Loaded:
    """Everything, read now.

    Raises:
        InvalidError: documents, policies or labels have mistakes; every one is named.
        UnavailableError: the documents cannot be read.
    """
    documents = load_documents(sources.documents, sources.trust_domain)
    files = read_files(sources.policies)
    sets = (*document_sets(documents), *files.sets)
    unknown = set(unknown_sets(sets, sources.policies.observe))
    if unknown:
        raise InvalidError(
            "policy_invalid",
            f"observe names {', '.join(sorted(unknown))}, which is no policy set",
            remedy=f"sets are {', '.join(each.name for each in sets)}",
        )
    facts = encode_facts(documents, locations=files.locations, threats=files.threats)
    return Loaded(documents, sets, PolicyEngine(encode_sets(sets, sources.policies.observe), facts))
