"""Answers of a chain out of log entries alone, and how ``chain show`` tells of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from custody_calls import PARTIES, Node, begin, call, fresh_id, go_on, signer
from custody_logs import LogFile
from hopseal.cli.main import cli
from hopseal.custody.answering import Answer, build_observation, build_receipt
from hopseal.custody.binding import BodySum
from hopseal.custody.observation import encode_observation
from hopseal.custody.outcome import Fin
from hopseal.custody.receipt import encode_receipt, parse_sealed_receipt
from hopseal.custody.receiver import Accepted
from hopseal.custody.record import SealedRecord, parse_sealed_record
from hopseal.custody.seal import seal_statements
from hopseal.custody.sender import build_child, seal_records
from hopseal.custody.statement import parse_sealed_statement
from hopseal.ids import SpiffeId
from hopseal.log.answers import AnswerReport
from hopseal.log.chain_evidence import CONTRADICTION
from hopseal.log.offline import ChainReport, HopReport, verify_chain_offline
from vectors.pki import NOW, spiffe
from vectors.scene import some_hash

OK = Answer(200, (), BodySum.of(b"ok"))


def receipt(accepted: Accepted, by: str, answer: Answer = OK, **claims: object) -> str:
    made = build_receipt(accepted.newest, answer, iat=NOW, jti=fresh_id())
    made = replace(made, outcome=replace(made.outcome, **claims))
    return seal_statements([encode_receipt(made)], signer(PARTIES[by]))[0]


@dataclass
class Answered:
    """shell → orchestrator → reasoner, every call answered."""

    first: Accepted = field(init=False)
    second: Accepted = field(init=False)
    log: LogFile = field(default_factory=lambda: LogFile("n"))

    def __post_init__(self) -> None:
        orchestrator = Node("orchestrator")
        self.first = begin("shell", orchestrator)
        self.second = go_on(self.first, orchestrator, Node("reasoner"))
        for accepted in (self.first, self.second):
            self.log.sent(accepted.newest.text)
            self.log.received(accepted)

    @property
    def cid(self) -> str:
        return self.first.newest.record.cid

    def report(self) -> ChainReport:
        return verify_chain_offline(self.log.entries(), self.cid)

    def answers(self) -> tuple[AnswerReport, ...]:
        """Those to the second call."""
        return self.report().roots[0].children[0].answers

    def show(self, folder: Path, *arguments: str) -> str:
        file = folder / "custody.log"
        file.write_bytes(self.log.bytes())
        return CliRunner().invoke(cli, ["chain", "show", "--last", "--log", str(file), *arguments]).output


@pytest.fixture
def answered() -> Answered:
    return Answered()


def test_a_receipt_in_two_logs_is_one_answer_and_holds(answered: Answered) -> None:
    text = receipt(answered.second, "reasoner")
    answered.log.receipt("sent", text)
    answered.log.receipt("received", text)
    (answer,) = answered.answers()
    assert answer.verified
    assert (answer.hash, answer.outcome) == (parse_sealed_receipt(text).hash, parse_sealed_receipt(text).claims.outcome)
    assert answered.report().verified


def test_a_call_without_answer_is_still_a_verified_record(answered: Answered) -> None:
    assert answered.answers() == ()
    assert answered.report().verified


def test_an_answer_that_was_refused_is_told_with_its_code(answered: Answered) -> None:
    text = receipt(answered.second, "reasoner")
    answered.log.receipt("received", text, verdict="refused", code="custody_binding", detail="another body")
    (answer,) = answered.answers()
    assert (answer.refused, answer.detail, answer.verified) == ("custody_binding", "another body", False)
    # The broker did what it should; the records hold.
    assert answered.report().verified


def test_receipts_of_other_chains_and_other_statements_are_no_answers(answered: Answered) -> None:
    answered.log.receipt("received", receipt(answered.second, "reasoner"), type="cls")
    answered.log.receipt("received", receipt(begin("shell", Node("orchestrator")), "orchestrator"))
    assert answered.answers() == ()


SPOILED: dict[str, Callable[[Answered], tuple[str, dict[str, object]]]] = {
    "custody_signature": lambda a: (receipt(a.second, "reasoner")[:-4] + "AAAA", {}),
    "custody_identity": lambda a: (receipt(a.second, "orchestrator"), {}),
    f"{CONTRADICTION} status": lambda a: (receipt(a.second, "reasoner"), {"st": 500}),
    f"{CONTRADICTION} issuer": lambda a: (receipt(a.second, "reasoner"), {"iss": "spiffe://a/b"}),
    f"{CONTRADICTION} unreadable": lambda a: (receipt(a.second, "reasoner"), {"sealed": "a.b.c.d.e"}),
    f"{CONTRADICTION} absent": lambda a: (receipt(a.second, "reasoner"), {"sealed": None}),
    f"{CONTRADICTION} type": lambda a: (receipt(a.second, "reasoner"), {"type": "obs"}),
    f"{CONTRADICTION} sender": lambda a: (
        receipt(a.second, "reasoner", aud=a.first.newest.record.iss),
        {},
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_receipt_that_does_not_hold_makes_its_chain_unverified(answered: Answered, name: str) -> None:
    text, changes = SPOILED[name](answered)
    answered.log.receipt("received", text, **changes)
    (answer,) = answered.answers()
    assert answer.code == name.split(maxsplit=1)[0]
    assert answer.detail
    assert not answer.verified
    assert not answered.report().verified


def test_a_receipt_whose_certificate_no_log_holds_says_which(answered: Answered) -> None:
    text = receipt(answered.second, "reasoner")
    x5t = parse_sealed_receipt(text).statement.seal.x5t
    answered.log.lines = [line for line in answered.log.lines if f'"x5t":"{x5t}"'.encode() not in line]
    answered.log.receipt("received", text)
    (answer,) = answered.answers()
    assert (answer.code, answer.detail) == ("custody_unresolved", f"cert:{x5t}")


def test_a_receipt_about_a_record_that_no_log_holds_is_no_fault(answered: Answered) -> None:
    answered.log.receipt("received", receipt(answered.second, "reasoner", rec=some_hash("elsewhere")))
    assert answered.report().verified


def test_the_tree_shows_answers_and_what_a_call_is_based_on(answered: Answered, tmp_path: Path) -> None:
    text = receipt(answered.second, "reasoner")
    answered.log.receipt("received", text)
    based_on = (parse_sealed_receipt(text).hash, some_hash("unknown"))
    third = replace(build_child(call("orchestrator", "crm-connector"), answered.first), based_on=based_on)
    answered.log.sent(seal_records([third], signer(PARTIES["orchestrator"]), NOW)[0])
    cut = Answer(200, (), BodySum.of(b""), fin=Fin.ABORT)
    answered.log.receipt("received", receipt(answered.first, "orchestrator", cut))
    shown = answered.show(tmp_path)
    assert "✓ receipt: 200, 2 bytes, eof" in shown
    assert "✓ receipt: 200, 0 bytes, abort" in shown
    assert "based on 2 answers of crm-assistant/reasoner, ?" in shown
    (chain,) = json.loads(answered.show(tmp_path, "--json"))
    inner = next(hop for hop in chain["hops"][0]["children"] if hop["answers"])
    assert inner["answers"] == [
        {
            "hash": based_on[0],
            "status": 200,
            "end": "eof",
            "bytes": 2,
            "type": "rcp",
            "host": None,
            "key": None,
            "verified": True,
            "refused": None,
            "code": None,
            "detail": "",
        }
    ]
    assert next(hop["based_on"] for hop in chain["hops"][0]["children"] if hop["based_on"]) == list(based_on)


def test_the_tree_shows_what_is_wrong_with_an_answer(answered: Answered, tmp_path: Path) -> None:
    answered.log.receipt("received", receipt(answered.second, "reasoner"), verdict="refused", code="receipt_missing")
    answered.log.receipt("received", receipt(answered.first, "reasoner"))
    shown = answered.show(tmp_path)
    assert "✗ answer refused: receipt_missing" in shown
    assert "✗ receipt: custody_identity" in shown
    refused = next(hop for hop in json.loads(answered.show(tmp_path, "--json"))[0]["hops"])
    assert [(each["status"], each["code"]) for each in refused["answers"]] == [(200, "custody_identity")]
    assert refused["children"][0]["answers"][0]["end"] is None


# Callees without custody.


def outside(answered: Answered, aud: str = "https://api.example.com", **claims: object) -> SealedRecord:
    """A call of the orchestrator to somebody who makes no receipts, which its log holds."""
    record = replace(build_child(call("orchestrator", "crm-connector"), answered.first), aud=aud, **claims)
    text = seal_records([record], signer(PARTIES["orchestrator"]), NOW)[0]
    answered.log.sent(text)
    return parse_sealed_record(text)


def observation(record: SealedRecord, by: str = "orchestrator") -> str:
    made = build_observation(
        record,
        OK,
        connector=SpiffeId.parse(spiffe(by)),
        host="api.example.com",
        spki=some_hash("key"),
        iat=NOW,
        jti=fresh_id(),
    )
    return seal_statements([encode_observation(made)], signer(PARTIES[by]))[0]


def observed(answered: Answered, text: str, **changes: object) -> None:
    outcome = parse_sealed_statement(text).claims.outcome
    claims = {"iss": str(outcome.iss), "aud": str(outcome.aud), "cid": outcome.cid, "rec": outcome.rec}
    head = {"type": "obs", "dir": "sent", "verdict": "accepted", "code": None, "detail": None, "sealed": text}
    answered.log.write(head | claims | {"st": outcome.st} | changes)


def hop_of(answered: Answered, record: SealedRecord) -> HopReport:
    return next(each for each in answered.report().roots[0].children if each.hash == record.hash)


@pytest.mark.parametrize("aud", ["https://api.example.com", "spiffe://prod.example.org/ledger"])
def test_an_observed_call_holds_and_is_no_verified_hop(answered: Answered, aud: str) -> None:
    record = outside(answered, aud)
    observed(answered, observation(record))
    hop = hop_of(answered, record)
    assert (hop.holds, hop.has_custody, hop.verified) == (True, False, False)
    assert [(each.verified, each.host) for each in hop.answers] == [(True, "api.example.com")]
    assert answered.report().verified


def test_a_call_to_a_component_without_an_answer_is_not_taken_for_one_without_custody(answered: Answered) -> None:
    assert hop_of(answered, outside(answered, "spiffe://prod.example.org/ledger")).has_custody
    assert not hop_of(answered, outside(answered)).has_custody


def test_a_call_that_asked_for_a_receipt_has_custody_whatever_its_caller_observed(answered: Answered) -> None:
    record = outside(answered, "spiffe://prod.example.org/ledger", rr=True)
    observed(answered, observation(record))
    assert hop_of(answered, record).has_custody


def test_an_observation_by_somebody_else_is_a_contradiction(answered: Answered) -> None:
    record = outside(answered)
    observed(answered, observation(record, "reasoner"))
    (answer,) = hop_of(answered, record).answers
    assert (answer.code, answer.detail) == (CONTRADICTION, "the observation is not by who sent the record")
    assert not answered.report().verified


def test_the_tree_says_plainly_that_there_was_no_custody(answered: Answered, tmp_path: Path) -> None:
    record = outside(answered)
    observed(answered, observation(record))
    call_line = {
        "type": "call", "dir": "received", "verdict": "accepted", "code": None, "detail": None, "custody": "none",
        "kind": "caller", "phase": "begin", "id": "i", "iss": "spiffe://prod.example.org/edge", "aud": spiffe("shell"),
        "op": "GET /", "dec": None, "x5t": None, "cid": answered.cid, "rec": None,
    }  # fmt: skip
    answered.log.write(call_line)
    ended = {"st": 200, "fin": "abort", "why": "idle", "received": 5, "sent": 7, "address": "192.0.2.1:5432"}
    end = {"kind": "tunnel", "phase": "end", "dir": "sent", "rec": record.hash, "ended": ended}
    answered.log.write(call_line | end)
    shown = answered.show(tmp_path)
    assert "after a call without custody: spiffe://prod.example.org/edge →" in shown
    assert "○ crm-assistant/orchestrator → https://api.example.com" in shown
    assert "(no custody)" in shown
    assert "○ observed by the caller alone: 200, 2 bytes, eof, from api.example.com, key" in shown
    assert "tunnel: 7 bytes out, 5 bytes back at 192.0.2.1:5432, abort (idle)" in shown
    (chain,) = json.loads(answered.show(tmp_path, "--json"))
    inner = next(hop for hop in chain["hops"][0]["children"] if hop["custody"] == "none")
    assert (inner["verified"], inner["answers"][0]["type"], chain["verified"]) == (False, "obs", True)
    assert [each["kind"] for each in chain["without_custody"]] == ["caller", "tunnel"]
