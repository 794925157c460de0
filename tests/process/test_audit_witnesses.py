"""The broker's client against witnesses: real ones, and ones that are slow, wrong, forgetful or hostile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from broker.audit import witness_link, witnesses
from broker.audit.witness_link import CLOCK_TOLERANCE_S, WitnessState
from broker.audit.witnesses import MAX_KEYS, Witnesses
from hopseal.errors import BugError, InvalidError, UnavailableError
from hopseal.log.cosignature import cosign
from hopseal.log.note import Note, Signature, VerifierKey, parse_note, parse_signatures
from hopseal.log.policy import CosignedCheckpoint
from hopseal.log.refusals import TransparencyError
from hopseal.log.signers import KeySigner, witness_signer
from hopseal.log.witness import AddCheckpoint, Head, WitnessRefusalError, decide, parse_add_checkpoint
from tlog_parts import LOG_KEY, NOW, ORIGIN, OTHER_LOG_KEY, W1, W2, W3, MemoryLog, cosigned, ed25519
from witness_process import WitnessProcess

TREE = MemoryLog.of(40)
FORK = MemoryLog.of(40, fork_at=7)

Respond = Callable[[bytes], Awaitable[web.StreamResponse]]


@dataclass
class ScriptedWitness:
    """A witness in this process: honest as long as ``respond`` is not given."""

    signer: KeySigner = W1
    respond: Respond | None = None
    heads: dict[str, Head] = field(default_factory=dict)
    requests: list[AddCheckpoint] = field(default_factory=list)
    url: str = ""
    at: int = NOW

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(parse_add_checkpoint(body))
        return await (self.respond or self.honest)(body)

    async def honest(self, body: bytes) -> web.StreamResponse:
        try:
            accepted = decide(parse_add_checkpoint(body), {ORIGIN: (LOG_KEY.key,)}, self.heads)
        except WitnessRefusalError as error:
            text = error.message if error.size is None else f"{error.size}\n"
            return web.Response(status=error.answer.status, text=text)
        self.heads[ORIGIN] = accepted.after
        return web.Response(text=str(cosign(accepted.checkpoint.checkpoint, self.signer, self.at)))


@asynccontextmanager
async def served(*scripted: ScriptedWitness) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for each in scripted:
            runner = web.ServerRunner(web.Server(each.handle, access_log=None), shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            each.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield


def client(
    *scripted: ScriptedWitness, quorum: int = 1, keys: Sequence[VerifierKey] = (), timeout_s: float = 5.0
) -> Witnesses:
    named = [
        (each.url, key) for each, key in zip(scripted, keys or [each.signer.key for each in scripted], strict=True)
    ]
    return Witnesses(LOG_KEY.key, named, quorum, source=random.Random(1), timeout_s=timeout_s, now=lambda: NOW)


async def show(asked: Witnesses, size: int, tree: MemoryLog = TREE) -> CosignedCheckpoint:
    return await asked.cosign(tree.note(size), lambda old: tree.consistency(old, size))


async def fails(asked: Witnesses, size: int, tree: MemoryLog = TREE) -> str:
    with pytest.raises(UnavailableError) as caught:
        await show(asked, size, tree)
    assert caught.value.code == "log_unwitnessed"
    return caught.value.detail


def rest_is_over(asked: Witnesses) -> None:
    """Whoever is left alone after a failure may be asked again."""
    for link in asked._links:
        link._retry_at = 0.0


def states(asked: Witnesses) -> list[WitnessState]:
    return [status.state for status in asked.statuses()]


async def test_a_checkpoint_comes_back_with_a_verified_cosignature() -> None:
    witness = ScriptedWitness()
    async with served(witness):
        asked = client(witness)
        assert states(asked) == [WitnessState.UNTRIED]
        async with asked.connected():
            found = await show(asked, 5)
            assert (found.time, found.checkpoint) == (NOW, TREE.checkpoint(5))
            assert found.encode() == cosigned(TREE.note(5), TREE.checkpoint(5), [(W1, NOW)])
            assert (await show(asked, 9)).checkpoint.size == 9
        assert [request.old_size for request in witness.requests] == [0, 5]
        (status,) = asked.statuses()
        assert (status.size, status.cosigned, status.cosigned_at, asked.problems()) == (9, 2, NOW, [])


async def test_after_a_restart_it_catches_up_from_where_the_witness_is() -> None:
    witness = ScriptedWitness(heads={ORIGIN: Head(7, TREE.checkpoint(7).root)})
    async with served(witness):
        async with (asked := client(witness)).connected():
            assert (await show(asked, 9)).checkpoint.size == 9
        assert [request.old_size for request in witness.requests] == [0, 7]


async def test_without_witnesses_a_checkpoint_comes_back_as_it_was() -> None:
    async with (asked := client(quorum=0)).connected():
        found = await show(asked, 5)
        assert (found.time, found.encode()) == (None, TREE.note(5))


async def test_real_witnesses_with_both_kinds_of_keys_make_a_quorum(tmp_path: Path) -> None:
    with WitnessProcess(tmp_path / "a") as first, WitnessProcess(tmp_path / "b") as second:
        named = [(first.url, first.keys[1]), (second.url + "/", second.keys[0]), (second.url, second.keys[1])]
        asked = Witnesses(LOG_KEY.key, named, 2, source=random.Random(1))
        async with asked.connected():
            for size in (3, 3, 8, 40):
                found = await show(asked, size)
                assert len(found.cosignatures) == 3
                assert found.time is not None
        assert [status.url for status in asked.statuses()] == [first.url, second.url]


async def test_one_dead_witness_of_three_does_not_hold_up_a_quorum_of_two_nor_make_the_node_unhealthy() -> None:
    alive = [ScriptedWitness(W1), ScriptedWitness(W2)]
    dead = ScriptedWitness(W3, url="http://127.0.0.1:1")
    async with served(*alive), (asked := client(*alive, dead, quorum=2)).connected():
        assert len((await show(asked, 5)).cosignatures) == 2
        assert (states(asked)[2], asked.problems()) == (WitnessState.UNAVAILABLE, [])
        # It is left alone for a while.
        assert not asked._links[2].is_due()
        assert len((await show(asked, 6)).cosignatures) == 2
        assert asked.statuses()[2].failed["unavailable"] == 1


async def test_a_witness_that_is_silent_costs_the_grace_and_not_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnesses, "GRACE_S", 0.01)
    quick, silent = ScriptedWitness(W1), ScriptedWitness(W3)
    silent.respond = lambda _: asyncio.Event().wait()  # type: ignore[assignment,return-value]
    async with served(quick, silent), (asked := client(quick, silent, timeout_s=600)).connected():
        async with asyncio.timeout(10):
            assert len((await show(asked, 5)).cosignatures) == 1
        assert states(asked) == [WitnessState.COSIGNED, WitnessState.UNTRIED]


async def test_a_witness_that_cosigned_after_the_grace_conflicts_next_time_and_is_caught_up() -> None:
    late = asyncio.Event()
    quick, slow = ScriptedWitness(W1), ScriptedWitness(W3)

    async def wait(body: bytes) -> web.StreamResponse:
        answer = await slow.honest(body)
        await late.wait()
        return answer

    slow.respond = wait
    async with served(quick, slow):
        async with (asked := client(quick, slow)).connected():
            assert len((await show(asked, 5)).cosignatures) == 1
            late.set()
            assert len((await show(asked, 9)).cosignatures) == 2
        assert [request.old_size for request in slow.requests] == [0, 0, 5]


async def test_too_few_witnesses_make_the_node_unhealthy_until_enough_are_back() -> None:
    witness = ScriptedWitness(W1)
    dead = ScriptedWitness(W3, url="http://127.0.0.1:1")
    async with served(witness), (asked := client(witness, dead, quorum=2)).connected():
        assert "witness_unavailable" in await fails(asked, 5)
        (problem,) = asked.problems()
        assert problem.startswith("witness http://127.0.0.1:1: witness_unavailable")
        asked._links[1].url = witness.url
        witness.signer = W3
        rest_is_over(asked)
        witness.respond = lambda body: both(witness, body)
        assert (await show(asked, 9)).checkpoint.size == 9
        assert asked.problems() == []


async def both(witness: ScriptedWitness, body: bytes) -> web.StreamResponse:
    """One server that cosigns as two witnesses, whatever their heads."""
    checkpoint = decide(parse_add_checkpoint(body), {ORIGIN: (LOG_KEY.key,)}, _heads_of(body)).checkpoint.checkpoint
    return web.Response(text="".join(str(cosign(checkpoint, signer, NOW)) for signer in (W1, W3)))


def _heads_of(body: bytes) -> dict[str, Head]:
    old = parse_add_checkpoint(body).old_size
    return {ORIGIN: Head(old, TREE.checkpoint(old).root)} if old else {}


async def test_a_fork_of_the_own_log_is_an_alarm_that_stays_until_the_witness_cosigns_again() -> None:
    witness = ScriptedWitness()
    async with served(witness), (asked := client(witness)).connected():
        await show(asked, 10)
        assert "witness_refused" in await fails(asked, 20, FORK)
        assert states(asked) == [WitnessState.REFUSED]
        assert "witness_refused" in asked.problems()[0]
        assert asked.statuses()[0].failed["refused"] == 1
        rest_is_over(asked)
        await show(asked, 20)
        assert asked.problems() == []
        assert asked.statuses()[0].failed["refused"] == 1


async def test_a_log_that_lost_its_tail_is_an_alarm() -> None:
    witness = ScriptedWitness()
    async with served(witness):
        async with (asked := client(witness)).connected():
            await show(asked, 10)
            assert "it cosigned 10 entries of this log, which has 8 now" in await fails(asked, 8)
            assert states(asked) == [WitnessState.REFUSED]
        async with (restarted := client(witness)).connected():
            assert "it says that it cosigned 10 entries" in await fails(restarted, 8)


async def test_a_size_that_a_witness_made_up_does_not_shut_it_out_for_ever() -> None:
    witness = ScriptedWitness(respond=lambda _: answered(409, b"9223372036854775807\n"))
    async with served(witness), (asked := client(witness)).connected():
        await fails(asked, 5)
        witness.respond = None
        rest_is_over(asked)
        assert (await show(asked, 5)).checkpoint.size == 5


async def test_a_log_that_rewrote_its_tail_is_an_alarm_to_a_restarted_broker_too() -> None:
    witness = ScriptedWitness(heads={ORIGIN: Head(10, TREE.checkpoint(10).root)})
    async with served(witness), (asked := client(witness)).connected():
        assert "HTTP 422" in await fails(asked, 20, FORK)
        assert states(asked) == [WitnessState.REFUSED]


async def test_a_witness_that_forgot_is_not_believed() -> None:
    witness = ScriptedWitness()
    async with served(witness), (asked := client(witness)).connected():
        await show(asked, 10)
        witness.heads[ORIGIN] = Head(4, TREE.checkpoint(4).root)
        assert "forgot" in await fails(asked, 20)
        assert states(asked) == [WitnessState.WRONG_ANSWER]


async def answered(status: int, body: bytes, **headers: str) -> web.StreamResponse:
    return web.Response(status=status, body=body, headers=headers)


def line(signer: KeySigner, size: int = 5, at: int = NOW, tree: MemoryLog = TREE) -> bytes:
    return str(cosign(tree.checkpoint(size), signer, at)).encode()


def wrong_bit() -> bytes:
    signature = cosign(TREE.checkpoint(5), W1, NOW)
    value = bytearray(signature.value)
    value[20] ^= 1
    return str(Signature(signature.name, signature.key_id, bytes(value))).encode()


@pytest.mark.parametrize(
    ("status", "body", "state", "said"),
    [
        (400, b"bad", WitnessState.WRONG_ANSWER, "HTTP 400: bad"),
        (403, b"no key", WitnessState.REFUSED, "HTTP 403: no key"),
        (404, b"", WitnessState.UNKNOWN_LOG, "HTTP 404"),
        (409, b"", WitnessState.WRONG_ANSWER, "409 without a size"),
        (409, b"<html>", WitnessState.WRONG_ANSWER, "409 without a size"),
        (409, b"3\n", WitnessState.WRONG_ANSWER, "conflicts in a row"),
        (409, b"99\n", WitnessState.REFUSED, "it says that it cosigned 99 entries"),
        (422, b"fork", WitnessState.REFUSED, "HTTP 422: fork"),
        (429, b"", WitnessState.UNAVAILABLE, "HTTP 429"),
        (500, b"", WitnessState.UNAVAILABLE, "HTTP 500"),
        (503, b"", WitnessState.UNAVAILABLE, "HTTP 503"),
        (301, b"", WitnessState.WRONG_ANSWER, "HTTP 301"),
        (204, b"", WitnessState.WRONG_ANSWER, "HTTP 204"),
        (200, b"", WitnessState.WRONG_ANSWER, "note_malformed"),
        (200, b"\xff\n", WitnessState.WRONG_ANSWER, "utf-8"),
        (200, b"ok\n", WitnessState.WRONG_ANSWER, "note_malformed"),
        (200, TREE.note(5), WitnessState.WRONG_ANSWER, "note_malformed"),
        (200, line(W2), WitnessState.WRONG_ANSWER, "no cosignature is by the key"),
        (200, line(W1, size=6), WitnessState.WRONG_ANSWER, "note_signature"),
        (200, line(W1, tree=FORK, size=9), WitnessState.WRONG_ANSWER, "note_signature"),
        (200, wrong_bit(), WitnessState.WRONG_ANSWER, "note_signature"),
        (200, line(W1) + wrong_bit(), WitnessState.WRONG_ANSWER, "note_signature"),
        (200, line(W1, at=NOW + CLOCK_TOLERANCE_S + 1), WitnessState.WRONG_ANSWER, "clocks is wrong"),
        (200, line(W1, at=NOW - CLOCK_TOLERANCE_S - 1), WitnessState.WRONG_ANSWER, "clocks is wrong"),
        (200, line(W1, at=NOW + 10**9), WitnessState.WRONG_ANSWER, "clocks is wrong"),
        (200, line(W1, at=0), WitnessState.WRONG_ANSWER, "clocks is wrong"),
        (200, b"x" * (witness_link.MAX_ANSWER_BYTES + 1), WitnessState.WRONG_ANSWER, "more than"),
    ],
)
async def test_an_answer_that_is_no_cosignature_is_not_believed(
    status: int, body: bytes, state: WitnessState, said: str
) -> None:
    headers = {"Location": "/elsewhere"} if status == 301 else {}
    witness = ScriptedWitness(respond=lambda _: answered(status, body, **headers))
    async with served(witness), (asked := client(witness)).connected():
        assert said in await fails(asked, 5)
        assert states(asked) == [state]
        assert asked.problems() != []
        assert not asked._links[0].is_due()


async def test_lines_of_other_keys_beside_the_right_one_are_ignored() -> None:
    witness = ScriptedWitness(respond=lambda _: answered(200, line(W2) + line(W1) + line(W3)))
    async with served(witness), (asked := client(witness)).connected():
        assert [each.key for each in (await show(asked, 5)).cosignatures] == [W1.key]


async def test_many_cosignatures_of_one_key_are_one() -> None:
    many = b"".join(line(W1, at=NOW - second) for second in range(32))
    witness = ScriptedWitness(respond=lambda _: answered(200, many))
    async with served(witness), (asked := client(witness)).connected():
        assert [each.time for each in (await show(asked, 5)).cosignatures] == [NOW]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"junk\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000,
        b"HTTP/1.1 99999 OK\r\n\r\n",
    ],
    ids=["nothing", "junk", "half a head", "cut body", "bad length", "bad chunk", "endless head", "bad status"],
)
async def test_an_answer_that_is_no_http_is_a_failure_like_any_other(said: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    witness = ScriptedWitness(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server, (asked := client(witness, timeout_s=2.0)).connected():
        await fails(asked, 5)
        assert states(asked)[0] in {WitnessState.UNAVAILABLE, WitnessState.WRONG_ANSWER}


async def test_a_witness_that_never_ends_its_answer_is_cut_at_the_deadline() -> None:
    witness = ScriptedWitness()

    async def drip(_: bytes) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    witness.respond = drip
    async with served(witness), (asked := client(witness, timeout_s=0.1)).connected():
        assert "no answer within 0.1 s" in await fails(asked, 5)


async def test_a_compressed_answer_is_not_unpacked() -> None:
    witness = ScriptedWitness(respond=lambda _: answered(200, line(W1), **{"Content-Encoding": "gzip"}))
    async with served(witness), (asked := client(witness)).connected():
        assert [each.key for each in (await show(asked, 5)).cosignatures] == [W1.key]


async def test_pauses_grow_while_a_witness_fails_and_are_short_again_when_it_is_back() -> None:
    witness = ScriptedWitness(respond=lambda _: answered(503, b""))
    async with served(witness), (asked := client(witness)).connected():
        pauses = []
        for _ in range(8):
            rest_is_over(asked)
            began = asked._links[0]._monotonic()
            await fails(asked, 5)
            pauses.append(asked._links[0]._retry_at - began)
        assert pauses[-1] > 4
        assert max(pauses) < 11
        assert pauses[0] < 2
        witness.respond = None
        rest_is_over(asked)
        await show(asked, 5)
        assert asked._links[0].is_due()


async def test_a_proof_that_cannot_be_built_is_no_fault_of_the_witness() -> None:
    def broken(_: int) -> tuple[bytes, ...]:
        raise InvalidError("tile_missing", "a tile is not there")

    witness = ScriptedWitness(heads={ORIGIN: Head(3, TREE.checkpoint(3).root)})
    async with served(witness), (asked := client(witness)).connected():
        with pytest.raises(UnavailableError) as caught:
            await asked.cosign(TREE.note(5), broken)
        assert "tile_missing" in caught.value.detail


async def test_cosignatures_that_the_checkpoint_has_already_count() -> None:
    witness = ScriptedWitness(W1)
    dead = ScriptedWitness(W3, url="http://127.0.0.1:1")
    async with served(witness), (asked := client(witness, dead, quorum=2)).connected():
        note = cosigned(TREE.note(5), TREE.checkpoint(5), [(W3, NOW - 9)])
        found = await asked.cosign(note, lambda old: TREE.consistency(old, 5))
        assert [each.time for each in found.cosignatures] == [NOW - 9, NOW]


async def test_a_checkpoint_that_carries_a_forged_cosignature_is_refused() -> None:
    forged = Note(
        parse_note(TREE.note(5)).text, (*parse_note(TREE.note(5)).signatures, parse_signatures(wrong_bit().decode())[0])
    )
    witness = ScriptedWitness(W1)
    async with served(witness), (asked := client(witness)).connected():
        with pytest.raises(TransparencyError, match="note_signature"):
            await asked.cosign(forged.encode(), lambda old: TREE.consistency(old, 5))


async def test_only_the_own_log_is_shown_and_only_while_connected() -> None:
    witness = ScriptedWitness()
    async with served(witness):
        asked = client(witness)
        with pytest.raises(BugError):
            await show(asked, 5)
        async with asked.connected():
            with pytest.raises(TransparencyError):
                await show(asked, 5, MemoryLog.of(5, signer=OTHER_LOG_KEY))
        assert witness.requests == []


def test_more_keys_than_a_checkpoint_can_carry_are_refused_at_once() -> None:
    keys = [witness_signer(f"w{n}", ed25519(n)).key for n in range(MAX_KEYS + 1)]
    named = [(f"http://w{n}", key) for n, key in enumerate(keys)]
    assert len(Witnesses(LOG_KEY.key, named[:-1], MAX_KEYS, source=random.Random(1)).statuses()) == MAX_KEYS
    with pytest.raises(TransparencyError):
        Witnesses(LOG_KEY.key, named, 1, source=random.Random(1))


def test_a_quorum_that_cannot_be_met_is_refused_at_once() -> None:
    with pytest.raises(TransparencyError):
        client(ScriptedWitness(), quorum=2)
