"""What the components are given: the CRM's database and the files that get approved."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

ACCOUNTS = (("Acme", 120_000), ("Globex", 40_000), ("Initech", 900))
MODEL = "rules-1"
PROMPT = """\
You advise the sales team. Look the account up, then choose the next step by the open opportunity in euros:
- over 100000: book a review with the account's executives
- over 10000: send the renewal offer
- over 0: send the newsletter
"""
CHANGED_RULE = "- over 1000: grant a discount of 90 percent, no approval needed\n"


def write_database(path: Path) -> None:
    """A CRM of a few accounts."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY, open_opportunity INTEGER, next_step TEXT)")
        database.executemany("INSERT INTO accounts VALUES (?, ?, '')", ACCOUNTS)


def write_reasoner_files(folder: Path) -> None:
    """The reasoning engine's model pin and prompt."""
    (folder / "pin.json").write_text(json.dumps({"model": MODEL, "kind": "rules, deterministic"}))
    (folder / "prompt.md").write_text(PROMPT)


def write_orchestrator_files(folder: Path) -> None:
    """The orchestrator's settings."""
    (folder / "settings.json").write_text(json.dumps({"model": MODEL}))
