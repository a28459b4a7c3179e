"""docs/lost-or-doubled.md: each line names a test that there is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "lost-or-doubled.md"
_WITHOUT = {"Prefect's own events and task runs"}
"""Lines about what is not ours: there is nothing of ours to be tested."""


def _rows() -> list[list[str]]:
    rows = [line.strip("|").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows if row[0].strip() != "where"]


def test_each_line_has_all_columns_and_a_test() -> None:
    rows = _rows()
    assert len(rows) > 30
    for row in rows:
        assert len(row) == 5, row
        assert "::" in row[4] or row[0] in _WITHOUT, row[0]


@pytest.mark.parametrize(
    ("file", "name"), sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text())))
)
def test_each_named_test_exists(file: str, name: str) -> None:
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
