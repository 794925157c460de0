"""A data plane, with a tiler if wanted, in a process of its own that can be killed; its folder outlives it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataplane_nodes import PERMIT_ALL, TRUST_DOMAIN, Component, components, instance, spiffe_id
from hopseal.log.reader import LogContents, read_files
from hopseal.log.segments import order_segments
from svid_authority import Authority


class NodeProcess:
    """The tool's node in a process that can be killed; its identity and folder outlive it."""

    def __init__(self, folder: Path, authority: Authority, listen: Path, *, tlog: bool = False, **more: object) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}
        self.log_file = folder / "log" / "custody.log"
        self.log_file.parent.mkdir(parents=True)
        svid = authority.issue(spiffe_id("tool"))
        encode = lambda data: base64.b64encode(data).decode()  # noqa: E731
        self.setup = {
            "settings": {
                "trust_domain": TRUST_DOMAIN,
                "node": "killed",
                "out_socket": str(folder / "out.sock"),
                "peer_listen": "127.0.0.1:0",
                "log_dir": str(self.log_file.parent),
                **more,
            },
            "tlog": str(folder) if tlog else None,
            "bundles": [[TRUST_DOMAIN, [encode(authority.der)]]],
            "components": components({"tool": listen}),
            "policies": PERMIT_ALL,
            "caller": [instance("tool"), "crm/tool"],
            "identities": [
                [
                    [instance("tool"), "crm/tool", spiffe_id("tool")],
                    [encode(der) for der in svid.chain_der],
                    encode(svid.key_pkcs8),
                    svid.expires_at,
                ]
            ],
        }

    def start(self) -> int:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "dataplane_child.py")],
            env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": os.environ["PATH"], **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(self.setup).encode() + b"\n")
        self.process.stdin.flush()
        port, took_s = self.process.stdout.readline().split()
        self.start_took_s = float(took_s)
        return int(port)

    def metric(self, name: str, **labels: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"stats\n")
        self.process.stdin.flush()
        metrics = json.loads(self.process.stdout.readline())["metrics"]
        (found,) = [each for each in metrics if each["name"] == f"hopseal_broker_{name}"]
        return sum(each["value"] for each in found["samples"] if each["labels"].items() >= labels.items())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()

    def log(self) -> LogContents:
        names = order_segments(os.listdir(self.log_file.parent))
        return read_files([(name, (self.log_file.parent / name).read_bytes()) for name in names])


@contextlib.contextmanager
def node_process(folder: Path, authority: Authority, **more: Any) -> Iterator[NodeProcess]:
    """A node with a tool that answers; it is killed at the end if it still runs."""
    path = folder / "tool.sock"
    with Component(path):
        node = NodeProcess(folder / "k", authority, path, **more)
        yield node
        with contextlib.suppress(ValueError):
            node.kill()
