"""Log policies: every rule of the format, every quorum, and what a checkpoint is worth under one."""

from __future__ import annotations

import pytest

from hopseal.limits import CLOCK_SKEW_S
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.cosignature import cosign
from hopseal.log.note import Note, Signature, VerifierKey
from hopseal.log.policy import (
    MAX_GROUPS,
    MAX_LOGS,
    MAX_POLICY_BYTES,
    MAX_WITNESSES,
    Policy,
    parse_policy,
    policy_of,
)
from hopseal.log.refusals import Reason, TransparencyError
from hopseal.log.signers import log_signer, witness_signer
from tlog_parts import LOG_KEY, NOW, ORIGIN, OTHER_LOG_KEY, W1, W2, W3, MemoryLog, cosigned, ed25519

TREE = MemoryLog.of(5)
LOG, K1, K2, K3 = str(LOG_KEY.key), str(W1.key), str(W2.key), str(W3.key)
THREE = f"log {LOG}\nwitness a {K1}\nwitness b {K2}\nwitness c {K3}\n"


def reason_of(function, *arguments) -> Reason:
    with pytest.raises(TransparencyError) as caught:
        function(*arguments)
    return caught.value.reason


def policy(text: str) -> Policy:
    return parse_policy(text.encode())


def time_of(text: str, **times: int) -> int | None:
    """When the quorum was met, for witnesses that cosigned at these times."""
    witnesses = {"a": W1, "b": W2, "c": W3}
    note = cosigned(TREE.note(), TREE.checkpoint(), [(witnesses[name], at) for name, at in times.items()])
    return policy(text).verify(parse_signed_checkpoint(note), NOW).time


def missed(text: str, **times: int) -> bool:
    return reason_of(lambda: time_of(text, **times)) is Reason.QUORUM


def test_the_shape_of_the_specifications_example() -> None:
    keys = [str(witness_signer(f"w{n}", ed25519(30 + n)).key) for n in range(6)]
    lines = [f"log {LOG}", ""]
    lines += [f"witness X{n + 1} {keys[n]}" for n in range(3)] + ["group X-witnesses 2 X1 X2 X3", ""]
    lines += [f"witness Y{n + 1} {keys[n + 3]}" for n in range(3)] + ["group Y-witnesses any Y1 Y2 Y3", ""]
    lines += ["group X-and-Y all X-witnesses Y-witnesses", "quorum X-and-Y"]
    found = policy("\n".join(lines) + "\n")
    assert [group.threshold for group in found.groups] == [2, 1, 2]
    assert (len(found.logs), len(found.witnesses), found.quorum) == (1, 6, b"X-and-Y")


def test_blanks_comments_and_urls() -> None:
    found = policy(
        f"# comment é\n \t# indented\n\n\t \n  log\t {LOG}  https://log.example/ \nwitness \xe9 {K1} http://w.example\n"
        "quorum \xe9\n"
    )
    assert [log.url for log in found.logs] == ["https://log.example/"]
    assert [(each.name, each.url) for each in found.witnesses] == [("\xe9".encode(), "http://w.example")]
    assert parse_policy(found.encode()) == found


def test_names_are_octets_and_not_text() -> None:
    text = THREE.encode() + b"group K any a\ngroup \xe2\x84\xaa any b\ngroup \xff any c\nquorum \xff\n"
    assert parse_policy(text).quorum == b"\xff"


@pytest.mark.parametrize(
    ("quorum", "times", "expected"),
    [
        ("quorum a", {"a": 5}, 5),
        ("quorum b", {"a": 5, "b": 7}, 7),
        ("group g any a b c\nquorum g", {"a": 9, "b": 7}, 7),
        ("group g all a b c\nquorum g", {"a": 9, "b": 7, "c": 8}, 9),
        ("group g 2 a b c\nquorum g", {"a": 9, "b": 7, "c": 8}, 8),
        ("group g 2 a b c\nquorum g", {"a": 9, "c": 8}, 9),
        ("group g any a b\ngroup h all g c\nquorum h", {"b": 7, "c": 8}, 8),
        ("group g any a b\ngroup h all g c\nquorum h", {"a": 9, "b": 7, "c": 8}, 8),
        ("quorum none", {"a": 9}, None),
        ("quorum none", {}, None),
    ],
)
def test_a_checkpoint_is_dated_by_when_its_quorum_was_met(
    quorum: str, times: dict[str, int], expected: int | None
) -> None:
    assert time_of(f"{THREE}{quorum}\n", **times) == expected


@pytest.mark.parametrize(
    ("quorum", "times"),
    [
        ("quorum a", {}),
        ("quorum a", {"b": 7, "c": 8}),
        ("group g any a b\nquorum g", {"c": 8}),
        ("group g all a b c\nquorum g", {"a": 9, "b": 7}),
        ("group g 2 a b c\nquorum g", {"a": 9}),
        ("group g any a b\ngroup h all g c\nquorum h", {"a": 9, "b": 7}),
        ("group g any a b\ngroup h all g c\nquorum h", {"c": 9}),
    ],
)
def test_a_checkpoint_that_too_few_cosigned_is_refused(quorum: str, times: dict[str, int]) -> None:
    assert missed(f"{THREE}{quorum}\n", **times)


def test_one_witness_that_dates_back_does_not_date_back_a_quorum_of_two() -> None:
    assert time_of(f"{THREE}group g 2 a b c\nquorum g\n", a=1, b=NOW - 60, c=NOW - 50) == NOW - 60


def test_one_witness_twice_is_not_two_witnesses() -> None:
    note = cosigned(TREE.note(), TREE.checkpoint(), [(W1, NOW - 5), (W1, NOW - 9)])
    two = policy(f"{THREE}group g 2 a b c\nquorum g\n")
    assert reason_of(two.verify, parse_signed_checkpoint(note), NOW) is Reason.QUORUM
    found = policy(f"{THREE}quorum a\n").verify(parse_signed_checkpoint(note), NOW)
    assert (found.time, [each.time for each in found.cosignatures]) == (NOW - 9, [NOW - 9, NOW - 5])


def test_a_cosignature_from_the_future_does_not_count() -> None:
    text = f"{THREE}quorum a\n"
    assert time_of(text, a=NOW + CLOCK_SKEW_S) == NOW + CLOCK_SKEW_S
    assert missed(text, a=NOW + CLOCK_SKEW_S + 1)


def test_a_cosignature_without_a_time_does_not_count() -> None:
    assert missed(f"{THREE}quorum b\n", b=0)
    assert time_of(f"{THREE}quorum b\n", b=1) == 1


def test_a_forged_cosignature_of_a_known_witness_spoils_the_note_and_of_an_unknown_one_does_not() -> None:
    signed = parse_signed_checkpoint(cosigned(TREE.note(), TREE.checkpoint(), [(W1, NOW)])).note
    forged = Signature(W2.key.name, W2.key.key_id, bytes(2_428))
    note = parse_signed_checkpoint(Note(signed.text, (*signed.signatures, forged)).encode())
    assert policy(f"log {LOG}\nwitness a {K1}\nquorum a\n").verify(note, NOW).time == NOW
    assert reason_of(policy(f"{THREE}quorum a\n").verify, note, NOW) is Reason.SIGNATURE


def test_only_what_was_verified_is_kept() -> None:
    stranger = cosign(TREE.checkpoint(), witness_signer("stranger", ed25519(66)), NOW)
    signed = parse_signed_checkpoint(cosigned(TREE.note(), TREE.checkpoint(), [(W2, NOW), (W1, NOW - 1)])).note
    note = parse_signed_checkpoint(Note(signed.text, (stranger, *signed.signatures)).encode())
    found = policy(f"{THREE}quorum a\n").verify(note, NOW)
    names = [each.name for each in parse_signed_checkpoint(found.encode()).note.signatures]
    assert names == [ORIGIN, W1.key.name, W2.key.name]


def test_another_origin_or_another_key_for_the_origin_is_refused() -> None:
    other = MemoryLog.of(5, signer=OTHER_LOG_KEY)
    found = policy(f"log {LOG}\nquorum none\n")
    assert reason_of(found.verify, parse_signed_checkpoint(other.note()), NOW) is Reason.ORIGIN
    impostor = MemoryLog.of(5, signer=log_signer(ORIGIN, ed25519(99)))
    assert reason_of(found.verify, parse_signed_checkpoint(impostor.note()), NOW) is Reason.UNSIGNED


def test_a_log_with_an_old_and_a_new_key_is_trusted_under_both() -> None:
    new = log_signer(ORIGIN, ed25519(99))
    both = policy(f"log {LOG}\nlog {new.key}\nquorum none\n")
    for signer in (LOG_KEY, new):
        note = MemoryLog.of(5, signer=signer).note()
        assert both.verify(parse_signed_checkpoint(note), NOW).checkpoint == TREE.checkpoint()


RENAMED = VerifierKey("renamed", W1.key.algorithm, W1.key.material)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quorum none",
        "\n",
        f"log {LOG}\n",
        "quorum none\nquorum none\n",
        "quorum\n",
        "quorum a\n",
        "quorum none none\n",
        "Quorum none\n",
        "quorum none\r\n",
        "quorum none # no comment here\n",
        "quorum none\n\x0b\n",
        "quorum none\n\x7f\n",
        "quorum none\n#\0\n",
        "unknown\nquorum none\n",
        "log\nquorum none\n",
        f"log {LOG} url more\nquorum none\n",
        f"log {LOG}\nlog {LOG}\nquorum none\n",
        f"log {LOG} url\nlog {LOG}\nquorum none\n",
        f"log {K1}\nquorum none\n",
        f"log {LOG}x\nquorum none\n",
        "witness\nquorum none\n",
        "witness a\nquorum none\n",
        f"witness a {K1} url more\nquorum none\n",
        f"witness a {LOG}\nquorum none\n",
        f"witness none {K1}\nquorum none\n",
        f"witness a {K1}\nwitness a {K2}\nquorum none\n",
        f"witness a {K1}\nwitness b {K1}\nquorum none\n",
        f"witness a {K1}\nwitness b {RENAMED}\nquorum none\n",
        f"quorum a\nwitness a {K1}\n",
        f"{THREE}group\nquorum a\n",
        f"{THREE}group g\nquorum a\n",
        f"{THREE}group g any\nquorum a\n",
        f"{THREE}group g 0 a\nquorum a\n",
        f"{THREE}group g 01 a\nquorum a\n",
        f"{THREE}group g +1 a\nquorum a\n",
        f"{THREE}group g 2 a\nquorum a\n",
        f"{THREE}group g 1000 a\nquorum a\n",
        f"{THREE}group g ANY a\nquorum a\n",
        f"{THREE}group g any a a\nquorum a\n",
        f"{THREE}group g any none\nquorum a\n",
        f"{THREE}group g any g\nquorum a\n",
        f"{THREE}group g any later\ngroup later any a\nquorum a\n",
        f"{THREE}group a any b\nquorum a\n",
        f"{THREE}group none any b\nquorum a\n",
        f"{THREE}group g any a\ngroup h any a\nquorum g\n",
        f"{THREE}group g any a\ngroup g any b\nquorum g\n",
    ],
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    assert reason_of(policy, text) is Reason.POLICY


def test_octets_that_are_no_text_cannot_stand_in_a_key_or_url() -> None:
    assert reason_of(parse_policy, f"log {LOG} ".encode() + b"\xff\nquorum none\n") is Reason.POLICY


def test_a_mistake_names_its_line() -> None:
    with pytest.raises(TransparencyError) as caught:
        policy("# fine\n\nlog wrong\nquorum none\n")
    assert "line 3" in caught.value.detail


def test_policies_at_the_bounds_and_beyond() -> None:
    logs = [f"log {log_signer(f'o{n}', ed25519(n)).key}\n" for n in range(MAX_LOGS + 1)]
    witnesses = [f"witness w{n} {witness_signer(f'w{n}', ed25519(n)).key}\n" for n in range(MAX_WITNESSES + 1)]
    groups = ["group g0 any w0\n"] + [f"group g{n} any g{n - 1}\n" for n in range(1, MAX_GROUPS + 1)]
    most = "".join((*logs[:-1], *witnesses[:-1], *groups[:-1]))
    assert len(policy(most + "quorum g0\n").groups) == MAX_GROUPS
    for one_more in (logs[-1], witnesses[-1], groups[-1]):
        assert reason_of(policy, f"{most}{one_more}quorum g0\n") is Reason.POLICY
    end = "quorum none\n"
    largest = "#" * (MAX_POLICY_BYTES - len(end) - 1) + "\n" + end
    assert policy(largest).quorum is None
    assert reason_of(policy, "#" + largest) is Reason.POLICY


def test_a_policy_made_of_keys_counts_witnesses_and_not_their_keys() -> None:
    found = policy_of([LOG_KEY.key], [[W1.key, W2.key], [W3.key]], 2)
    both_of_one = cosigned(TREE.note(), TREE.checkpoint(), [(W1, NOW - 3), (W2, NOW - 2)])
    assert reason_of(found.verify, parse_signed_checkpoint(both_of_one), NOW) is Reason.QUORUM
    two = cosigned(TREE.note(), TREE.checkpoint(), [(W2, NOW - 2), (W3, NOW - 1)])
    assert found.verify(parse_signed_checkpoint(two), NOW).time == NOW - 1


@pytest.mark.parametrize(("witnesses", "threshold"), [([], 1), ([[W1.key]], 2), ([[W1.key], [W1.key]], 1), ([[]], 0)])
def test_a_policy_of_keys_that_cannot_be_is_refused(witnesses: list[list[VerifierKey]], threshold: int) -> None:
    assert reason_of(policy_of, [LOG_KEY.key], witnesses, threshold) is Reason.POLICY
