"""Network namespaces as nodes: each with a loopback, an address on one bridge, and nothing else."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_COUNTER = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace; ``enter`` is the command prefix that runs a program in it."""

    name: str
    address: str

    @property
    def enter(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def connected_namespaces(count: int) -> Iterator[Sequence[Namespace]]:
    """``count`` namespaces that reach each other over a bridge in a namespace of its own, apart from the host."""
    tag = f"hs{os.getpid() % 100000}x{next(_COUNTER)}"
    switch = f"{tag}s"
    nodes = [Namespace(f"{tag}n{index}", f"10.213.7.{index + 1}") for index in range(count)]
    made: list[str] = []
    try:
        for name in (switch, *(node.name for node in nodes)):
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for index, node in enumerate(nodes):
            port = f"p{index}"
            ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", node.name)
            ip("-n", switch, "link", "set", port, "master", "br0", "up")
            ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", "eth0")
            ip("-n", node.name, "link", "set", "eth0", "up")
        yield nodes
    finally:
        for name in reversed(made):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
