"""The log of a whole broker: announced, signed, served, killed, stopped; and refused once it contradicts itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from attestor_double import AttestorDouble
from broker_process import BrokerProcess
from hopseal.custody.encoding import parse_json_object
from hopseal.custody.merkle import hash_leaf
from hopseal.custody.seal import parse_sealed, thumbprint
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.entries import read_payload
from hopseal.log.leaf import numbered_leaf_of_line
from hopseal.log.log_key import verify_log_signature
from hopseal.log.note import parse_vkey
from hopseal.log.tiles import Tile, decode_entries, parse_tile_path, tile_hash_reader
from hopseal.log.tree import build_inclusion_proof, read_root, verify_inclusion
from waiting import async_wait_until

AUDIT = "{listen: 127.0.0.1:0, checkpoint_interval_s: 0.1}"
BROKER_ID = "spiffe://example.org/hopseal/broker/node-1"


@asynccontextmanager
async def broker(folder: Path) -> AsyncIterator[BrokerProcess]:
    double, process = AttestorDouble(folder), BrokerProcess(folder, audit=AUDIT)
    try:
        await double.start()
        await asyncio.to_thread(process.start)
        yield process
    finally:
        await asyncio.to_thread(process.kill)
        await double.stop()


def lines(folder: Path) -> list[bytes]:
    return [read_payload(line) for line in (folder / "state/log/custody.log").read_bytes().rstrip(b"\0").splitlines()]


def attested(folder: Path) -> list[dict]:
    return [each for each in map(json.loads, lines(folder)) if each["type"] == "attest"]


async def published(process: BrokerProcess) -> dict:
    """The log's status once everything is published."""
    found: dict = {}

    def is_all() -> bool:
        found.update(process.status()["audit"])
        return bool(attested(process.folder)) and found["published"] == found["entries"] > 0

    await async_wait_until(lambda: asyncio.to_thread(is_all), what="a checkpoint over everything")
    return found


def fetch(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
        return answer.read()


async def test_anybody_can_prove_an_entry_out_of_what_is_served(tmp_path: Path) -> None:
    async with broker(tmp_path) as process:
        audit = await published(process)
        assert audit["origin"] == "custody.example.org/node-1"
        (started,) = process.events("broker_started")
        port, key = started["audit_port"], parse_vkey(audit["vkey"])
        assert started["log_key"] == audit["vkey"]
        unverified = parse_signed_checkpoint(await asyncio.to_thread(fetch, port, "checkpoint"))
        checkpoint = verify_log_signature(unverified, [key]).checkpoint
        served = await asyncio.to_thread(
            lambda: {
                tile: fetch(port, tile.path) for tile in (Tile(0, 0, checkpoint.size), Tile(None, 0, checkpoint.size))
            }
        )
        read = tile_hash_reader(checkpoint.size, served.__getitem__)
        assert read_root(checkpoint.size, read) == checkpoint.root
        leaves = [numbered_leaf_of_line(line)[1] for line in lines(tmp_path)]
        assert decode_entries(served[Tile(None, 0, checkpoint.size)], checkpoint.size) == tuple(leaves)
        for index, leaf in enumerate(leaves):
            proof = build_inclusion_proof(index, checkpoint.size, read)
            verify_inclusion(hash_leaf(leaf), index, checkpoint.size, proof, checkpoint.root)
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(fetch, port, "signed")
        assert refused.value.code == 404
        refused.value.close()
        metrics = (await asyncio.to_thread(process.get, "/metrics"))[1].decode()
        assert f"hopseal_broker_audit_signed_entries {float(checkpoint.size)}" in metrics
        assert "hopseal_broker_audit_lag_entries 0.0" in metrics


async def test_the_brokers_own_svid_vouches_for_the_log_key(tmp_path: Path) -> None:
    async with broker(tmp_path) as process:
        audit = await published(process)
        (entry,) = attested(tmp_path)
        statement = parse_sealed(entry["sealed"])
        claims = parse_json_object(statement.claims)
        assert (claims["iss"], claims["log"]) == (BROKER_ID, {"origin": audit["origin"], "vkey": audit["vkey"]})
        certificates = [each["x5t"] for each in map(json.loads, lines(tmp_path)) if each["type"] == "cert"]
        assert certificates == [statement.seal.x5t] == [claims["sx"]]
        assert len(thumbprint(b"")) == len(certificates[0])


async def test_killed_and_started_again_the_log_goes_on_under_its_key(tmp_path: Path) -> None:
    async with broker(tmp_path) as process:
        before = await published(process)
        await asyncio.to_thread(process.kill)
        await asyncio.to_thread(process.start)
        after = await published(process)
        assert after["vkey"] == before["vkey"]
        assert after["published"] > before["published"]
        assert after["problem"] == ""


async def test_a_broker_that_is_stopped_publishes_its_last_entries_first(tmp_path: Path) -> None:
    async with broker(tmp_path) as process:
        await published(process)
        process.signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait)
        note = parse_signed_checkpoint((tmp_path / "state/tlog/checkpoint").read_bytes())
        assert note.checkpoint.size == len(lines(tmp_path))
        for path in (tmp_path / "state/tlog").rglob("*"):
            relative = str(path.relative_to(tmp_path / "state/tlog"))
            if path.is_file() and relative.startswith("tile"):
                parse_tile_path(relative)


async def test_a_journal_that_was_cut_makes_the_node_unhealthy_and_nothing_is_signed(tmp_path: Path) -> None:
    async with broker(tmp_path) as process:
        await published(process)
        await asyncio.to_thread(process.kill)
        journal = tmp_path / "state/log/custody.log"
        whole = journal.read_bytes().splitlines(keepends=True)
        os.truncate(journal, len(whole[0]))
        signed = (tmp_path / "state/tlog/signed").read_bytes()
        await asyncio.to_thread(process.start)
        await async_wait_until(lambda: process.events("log_contradiction"))
        status, body = await asyncio.to_thread(process.get, "/healthz")
        assert status == 503
        assert any("log_contradiction" in problem for problem in json.loads(body)["problems"])
        assert (tmp_path / "state/tlog/signed").read_bytes() == signed


async def test_a_log_key_that_others_can_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/log.key").write_text("secret")
    (tmp_path / "state/log.key").chmod(0o644)
    process = BrokerProcess(tmp_path)
    await asyncio.to_thread(lambda: process.start(wait=False))
    assert await asyncio.to_thread(process.wait) != 0
    assert "log_key_exposed" in process.log_path.read_text()
