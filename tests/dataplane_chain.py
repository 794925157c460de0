"""Three nodes in a row: the orchestrator calls the reasoner, which calls the tool, each on a node of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataplane_nodes import Component, Node, spiffe_id
from oauth_server import Served
from svid_authority import Authority


@dataclass(frozen=True)
class Row:
    """The nodes, what answers on two of them, and an authorization server that knows both callers."""

    authority: Authority
    auth: Served
    a: Node
    b: Node
    c: Node
    reasoner: Component
    tool: Component


@contextlib.contextmanager
def three_in_a_row(folder: Path, **settings: object) -> Iterator[Row]:
    """The nodes, started and with routes to each other; issuers are the test's to set."""
    authority = Authority("example.org")
    with contextlib.ExitStack() as stack:
        auth = stack.enter_context(Served())
        for name in ("orchestrator", "reasoner"):
            auth.register(spiffe_id(name))
        reasoner = stack.enter_context(Component(folder / "reasoner.sock"))
        tool = stack.enter_context(Component(folder / "tool.sock"))
        a = Node(folder / "a", authority, settings=settings).start()
        stack.callback(a.stop)
        b = Node(folder / "b", authority, caller="reasoner", listens={"reasoner": reasoner.path}, settings=settings)
        b.start()
        stack.callback(b.stop)
        c = Node(folder / "c", authority, caller=None, listens={"tool": tool.path}, settings=settings).start()
        stack.callback(c.stop)
        a.route(reasoner=b.port, tool=c.port)
        b.route(tool=c.port)
        yield Row(authority, auth, a, b, c, reasoner, tool)
