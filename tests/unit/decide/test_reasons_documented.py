"""Whoever reads a reason finds it, with what to do, in docs/operators.md."""

import re
from pathlib import Path

import pytest

from gpugrant.decide import reasons

PAGE = Path(__file__).parents[3] / "docs" / "operators.md"
REASONS = sorted({value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)})
ROWS = re.findall(r"^\| (\w+) \| ([^|]*\S[^|]*) \|[^|]*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_there_are_reasons_to_look_for() -> None:
    """A test that looks for nothing finds nothing missing."""
    assert len(REASONS) > 40


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_in_the_table_with_its_meaning(reason: str) -> None:
    """A new reason needs a row: reason, meaning, what to do."""
    assert reason in {name for name, _ in ROWS}, f"add {reason} to the tables of {PAGE.name}, section Reasons"
