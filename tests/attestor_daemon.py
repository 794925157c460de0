"""A whole attestor daemon in the test's own event loop, and components that call it."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from attestor.config import AttestorConfig, load_config
from attestor.service import AttestorService
from attestor_nodes import exe_digest
from waiting import async_wait_until

REPOSITORY = Path(__file__).parents[1]

CLIENT = """
import asyncio, os, sys
from grpclib.client import Channel
from grpclib.exceptions import GRPCError
from hopseal.wire.gen.spiffe.workload import workload_grpc, workload_pb2
uid, path = int(sys.argv[1]), sys.argv[2]
os.setgroups([]); os.setgid(uid); os.setuid(uid)
async def main():
    channel = Channel(path=path)
    stub = workload_grpc.SpiffeWorkloadAPIStub(channel)
    try:
        async with stub.FetchX509SVID.open(metadata={"workload.spiffe.io": "true"}) as stream:
            await stream.send_message(workload_pb2.X509SVIDRequest(), end=True)
            async for answer in stream:
                print("svids", *[svid.spiffe_id for svid in answer.svids], flush=True)
    except GRPCError as error:
        print("error", error.status.name, flush=True)
    except Exception as error:
        print("lost", type(error).__name__, flush=True)
    sys.stdin.read()
asyncio.run(main())
"""


@contextmanager
def workload_client(uid: int, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A component of another user that fetches its SVIDs and prints what comes."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(uid), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def line_of(process: subprocess.Popen[str], timeout_s: float = 15.0) -> str:
    async with asyncio.timeout(timeout_s):
        return (await asyncio.to_thread(process.stdout.readline)).strip()


class Daemon:
    """Files of one attestor under ``folder``; ``more`` is appended to its configuration.

    Example: ``async with daemon.running(): …``
    """

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        self.documents = folder / "agents"
        self.documents.mkdir(exist_ok=True)
        self.config_file = folder / "attestor.yaml"
        self.config_file.write_text(f"""\
trust_domain: example.org
node: node-1
documents: {self.documents}
state_dir: {folder}/state
sockets:
  workload: {folder}/run/agent/api.sock
  broker: {folder}/run/own/broker.sock
  admin: {folder}/run/own/admin.sock
upstream: {{kind: embedded, state_dir: {folder}/authority}}
brokers: [{{node: node-1, attest: {{uid: 24190, exe: ['{exe_digest()}']}}}}]
{more}reattest_interval_s: 1
collector_timeout_s: 5
log: {{format: console, level: error}}
""")

    @property
    def config(self) -> AttestorConfig:
        return load_config(self.config_file)

    @property
    def workload(self) -> Path:
        return self.folder / "run/agent/api.sock"

    @property
    def admin(self) -> Path:
        return self.folder / "run/own/admin.sock"

    def write(self, text: str) -> None:
        (self.documents / "crm.yaml").write_text(text)

    async def ask(self, path: str, method: str = "GET") -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(self.admin))) as session,
            session.request(method, f"http://attestor{path}") as response,
        ):
            body = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, json.loads(body) if is_json else body.decode()

    async def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``hopseal`` with these arguments, in a process of its own: the daemon in this one logs to standard output."""
        command = [sys.executable, "-m", "hopseal.cli.main", *arguments]
        return await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False, cwd=REPOSITORY
        )

    async def component(self, name: str = "crm/orchestrator") -> dict[str, Any]:
        _, status = await self.ask("/v1/status")
        return next(each for each in status["components"] if each["component"] == name)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(AttestorService(self.config).run(stop))
        try:
            await async_wait_until(lambda: task.done() or self.answers(), what="the daemon to answer")
            if task.done():
                await task
            yield
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.1)
            try:
                client.connect(str(self.admin))
            except OSError:
                return False
            return True
