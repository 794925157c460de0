"""What the pages for authors show is what the examples do, and those are run (tests/process/test_examples.py)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").glob("*.py"))}
PAGES = [ROOT / "docs" / "sdk.md", ROOT / "docs" / "run.md"]
BLOCKS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_every_python_block_stands_in_an_example(page: str, block: str) -> None:
    assert any(block in source for source in EXAMPLES.values()), f"{page}: {block}"


def test_every_example_is_run() -> None:
    tests = (ROOT / "tests" / "process" / "test_examples.py").read_text()
    for name in EXAMPLES:
        assert name in tests or f'"{name.removesuffix(".py")}"' in tests, name


def test_every_example_is_named_with_how_to_run_it() -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for name in EXAMPLES:
        assert f"`{name}`" in page, name


def test_every_code_of_the_commands_is_explained() -> None:
    page = (ROOT / "docs" / "run.md").read_text(encoding="utf-8")
    sources = [*(ROOT / "hopseal" / "running").glob("*.py"), *(ROOT / "hopseal" / "cli").glob("*serve_stdio.py")]
    codes = {
        code
        for source in sources
        for code in re.findall(r'(?:Error\(|code=|_gone\()\s*(?:40\d, )?"([a-z]+_[a-z_]+)"', source.read_text())
    }
    assert len(codes) > 10
    for code in codes:
        assert f"`{code}`" in page, code
