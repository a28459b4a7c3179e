"""docs/privacy.md names every table, once."""

import re
from collections import Counter
from pathlib import Path

from store.tables import metadata

PAGE = Path(__file__).parents[1] / "docs" / "privacy.md"


def test_the_page_on_personal_data_names_every_table_once() -> None:
    rows = [line.split("|")[2] for line in PAGE.read_text().splitlines() if line.count("|") == 5]
    named = Counter(name for row in rows for name in re.findall(r"`([a-z_]+)`", row))
    tables = {table.name for table in metadata.sorted_tables}
    assert {name for name in named if name in tables} == tables
    assert all(named[name] == 1 for name in tables)
