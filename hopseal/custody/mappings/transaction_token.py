"""A root's claims in the request for a Transaction Token.

Owns: what a chain tells the Transaction Token Service, so that the token can be matched with the chain later.
Does not own: the way back, from a verified token to a root's ``obo`` (``usertoken``, ``sender.build_root``).
Source: custody-wire §9.1; draft-ietf-oauth-transaction-tokens (parameters ``request_details`` and ``request_context``).
"""

from __future__ import annotations

from dataclasses import dataclass

from hopseal.custody.delegation import Task


@dataclass(frozen=True, slots=True)
class TransactionRequest:
    """Two parameters of a Txn-Token request, as JSON objects.

    Args:
        details: ``request_details``: the task, and hashes of its intent and approved authority.
        context: ``request_context``: the chain's ID.
    """

    details: dict[str, str]
    context: dict[str, str]


def transaction_request(task: Task, cid: str) -> TransactionRequest:
    """What to ask a Transaction Token for, before the root of chain ``cid`` is built."""
    details = {"task": task.id, "ih": task.intent_hash, "ah": task.authority_hash}
    return TransactionRequest({name: value for name, value in details.items() if value is not None}, {"cid": cid})
