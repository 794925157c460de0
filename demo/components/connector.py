"""The connector: an ordinary MCP server over a small CRM in SQLite. It knows nothing of Hopseal.

Served as any MCP server is: ``uvicorn --uds crm.sock demo.components.connector:app``.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TypedDict

from mcp.server.mcpserver import MCPServer

DATABASE = os.environ.get("CRM_DATABASE", "crm.sqlite")


class Account(TypedDict):
    """One customer; ``open_opportunity`` is in euros."""

    name: str
    open_opportunity: int
    next_step: str


server = MCPServer("crm", instructions="Accounts of the sales team.")


@server.tool(name="crm.lookup")
def lookup(account: str) -> Account:
    """Look an account up by its name."""
    with closing(sqlite3.connect(DATABASE)) as database:
        row = database.execute(
            "SELECT name, open_opportunity, next_step FROM accounts WHERE name = ?", (account,)
        ).fetchone()
    if row is None:
        raise ValueError(f"no account named {account}")
    return Account(name=row[0], open_opportunity=row[1], next_step=row[2])


@server.tool(name="crm.update")
def update(account: str, next_step: str) -> Account:
    """Write down what to do next about an account."""
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("UPDATE accounts SET next_step = ? WHERE name = ?", (next_step, account))
    return lookup(account)


app = server.streamable_http_app()
