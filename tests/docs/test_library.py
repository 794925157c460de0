"""Every block of the pages about the library runs, in order, and prints what its page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "library.md", ROOT / "docs" / "mappings.md"]
BLOCKS = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run_and_print_what_it_says(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = BLOCKS.findall(page.read_text(encoding="utf-8"))
    assert blocks
    names: dict[str, Any] = {"__name__": "example"}
    for source, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, page.name, "exec"), names)
        assert printed.getvalue() == expected, source


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_of_a_page_is_found(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(BLOCKS.findall(text)) == text.count("```python")
    assert sum(bool(expected) for _, expected in BLOCKS.findall(text)) == text.count("```text")
