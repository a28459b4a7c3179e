"""SQLite's locks belong to the process: nothing of ours may drop them by closing the file elsewhere."""

import asyncio
import subprocess
import sys
from pathlib import Path

from store.database import Database

_TRY_TO_WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    connection.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError:
    print("locked")
else:
    print("written to at the same time")
"""


async def test_opening_a_database_again_does_not_drop_the_locks_of_a_writer_in_this_process(
    tmp_path: Path,
) -> None:
    file = tmp_path / "store.db"
    url = f"sqlite:///{file}"
    async with Database.open(url) as first:
        await first.ensure()
        async with first.begin():
            async with Database.open(url) as second:
                await second.state()
            command = [sys.executable, "-c", _TRY_TO_WRITE, str(file)]
            found = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, check=True
            )
    assert found.stdout.strip() == "locked"
