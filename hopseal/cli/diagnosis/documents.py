"""The Agent documents, read as the daemons read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hopseal.cli.diagnosis.finding import Finding, failed, ok, warning
from hopseal.cli.output import format_count
from hopseal.documents.load import load_documents
from hopseal.documents.model import AgentStatus, DocumentsInvalidError
from hopseal.errors import HopsealError
from hopseal.ids import TrustDomain


def check_documents(folder: Path, trust_domain: str) -> Iterator[Finding]:
    """Every mistake, or how many agents there are."""
    try:
        found = load_documents(folder, TrustDomain.parse(trust_domain))
    except DocumentsInvalidError as error:
        for each in error.problems:
            yield failed("documents.valid", each.message, f"{folder / each.file}:{each.line}", each.remedy)
        return
    except HopsealError as error:
        yield failed("documents.valid", error.message, error.code, error.remedy)
        return
    active = sum(agent.status is AgentStatus.ACTIVE for agent in found.agents)
    evidence = f"{format_count(len(found.agents), 'agent')}, {active} active, digest {found.sha256[:12]}"
    if found.agents:
        yield ok("documents.valid", f"the documents in {folder} are valid", evidence)
    else:
        yield warning(
            "documents.valid",
            f"there is no document in {folder}",
            evidence,
            "hopseal agents init drafts one from what runs",
        )
