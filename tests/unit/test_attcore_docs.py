"""The page about states is drawn from the tables that the program runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from attestor.states import render_page

PAGE = Path(__file__).parents[2] / "docs" / "states.md"


def test_the_page_says_what_the_program_does():
    assert PAGE.read_text() == render_page(), "write it anew: python -m attestor.states > docs/states.md"


@pytest.mark.parametrize("heading", ["## States", "## Transitions", "## Claims", "## Reason codes"])
def test_the_page_has_each_part(heading: str):
    assert heading in PAGE.read_text()
