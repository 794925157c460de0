"""Write the vectors and the worked example, or say which committed file differs from them.

Deterministic: keys from fixed seeds, nonces by RFC 6979. Run as ``PYTHONPATH=.:tests python -m vectors.generate``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vectors import (
    answers,
    cases_authority,
    cases_binding,
    cases_chain,
    cases_claims,
    cases_closing,
    cases_context,
    cases_evidence,
    cases_folding,
    cases_format,
    cases_jcs,
    cases_ok,
    cases_omission,
    cases_receipt,
    cases_response,
    cases_seal,
    cases_small,
    cases_statement,
    cases_streams,
    cases_trust,
    cases_users,
    scene,
    worked_example,
)

FOLDER = Path(__file__).parent
DOCS = FOLDER.parents[1] / "docs"
Cases = Callable[[], Iterator[dict[str, Any]]]
FILES: dict[str, tuple[str, dict[str, Any], Cases]] = {
    "base64url": ("base64url", {}, cases_small.base64url_cases),
    "claims": ("claims", {}, cases_claims.claims_cases),
    "errors": ("errors", {}, cases_small.errors_cases),
    "jcs": ("jcs", {}, cases_jcs.jcs_cases),
    "folding": ("folding", cases_folding.DEFAULTS, cases_folding.folding_cases),
    "seal": ("seal", {}, cases_seal.seal_cases),
    "seal_batch": ("seal_batch", {}, cases_seal.seal_batch_cases),
    "binding": ("binding", cases_binding.BINDING_DEFAULTS, cases_binding.binding_cases),
    "receive_ok": ("receive", scene.DEFAULTS, cases_ok.ok_cases),
    "receive_format": ("receive", scene.DEFAULTS, cases_format.format_cases),
    "receive_context": ("receive", scene.DEFAULTS, cases_context.context_cases),
    "receive_chain": ("receive", scene.DEFAULTS, cases_chain.chain_cases),
    "receive_omission": ("receive", scene.DEFAULTS, cases_omission.omission_cases),
    "receive_trust": ("receive", scene.DEFAULTS, cases_trust.trust_cases),
    "receive_authority": ("receive", scene.DEFAULTS, cases_authority.authority_cases),
    "receive_users": ("receive", cases_users.USERS_DEFAULTS, cases_users.users_cases),
    "receive_stream": ("receive", scene.DEFAULTS, cases_closing.stream_cases),
    "statement": ("statement", {}, cases_statement.statement_cases),
    "kids": ("kids", {}, cases_response.kids_cases),
    "response_binding": ("response_binding", {}, cases_response.response_binding_cases),
    "sse": ("sse", {}, cases_response.sse_cases),
    "streams": ("streams", {}, cases_streams.streams_cases),
    "receipt": ("receipt_verify", answers.RESPONSE_DEFAULTS, cases_receipt.receipt_cases),
    "closing": ("closing_verify", answers.CLOSING_DEFAULTS, cases_closing.closing_cases),
    "evidence": ("evidence", cases_evidence.EVIDENCE_DEFAULTS, cases_evidence.evidence_cases),
}


def render(name: str) -> str:
    """The text of one file."""
    kind, defaults, cases = FILES[name]
    document = {"kind": kind, "defaults": defaults, "cases": list(cases())}
    return json.dumps(document, indent=1, ensure_ascii=True) + "\n"


def main() -> None:
    for name in FILES:
        (FOLDER / f"{name}.json").write_text(render(name), encoding="ascii")
    (DOCS / "custody-worked-example.md").write_text(worked_example.page(), encoding="utf-8")
    (DOCS / "custody-worked-example.json").write_text(worked_example.companion(), encoding="ascii")


if __name__ == "__main__":
    main()
