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
from hopseal.custody.answering import Answer, build_receipt
from hopseal.custody.binding import BodySum
from hopseal.custody.outcome import Fin
from hopseal.custody.receipt import encode_receipt, parse_sealed_receipt
from hopseal.custody.receiver import Accepted
from hopseal.custody.seal import seal_statements
from hopseal.custody.sender import build_child, seal_records
from hopseal.log.answers import AnswerReport
from hopseal.log.chain_evidence import CONTRADICTION
from hopseal.log.offline import ChainReport, verify_chain_offline
from vectors.pki import NOW
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
    answered.log.receipt("received", receipt(answered.second, "reasoner"), type="obs")
    answered.log.receipt("received", receipt(begin("shell", Node("orchestrator")), "orchestrator"))
    assert answered.answers() == ()


SPOILED: dict[str, Callable[[Answered], tuple[str, dict[str, object]]]] = {
    "custody_signature": lambda a: (receipt(a.second, "reasoner")[:-4] + "AAAA", {}),
    "custody_identity": lambda a: (receipt(a.second, "orchestrator"), {}),
    f"{CONTRADICTION} status": lambda a: (receipt(a.second, "reasoner"), {"st": 500}),
    f"{CONTRADICTION} issuer": lambda a: (receipt(a.second, "reasoner"), {"iss": "spiffe://a/b"}),
    f"{CONTRADICTION} unreadable": lambda a: (receipt(a.second, "reasoner"), {"sealed": "a.b.c.d.e"}),
    f"{CONTRADICTION} absent": lambda a: (receipt(a.second, "reasoner"), {"sealed": None}),
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
