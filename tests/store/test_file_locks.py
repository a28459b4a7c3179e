"""SQLite's locks belong to the process: nothing of ours may drop them by closing the file elsewhere."""

import asyncio
import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from store.database import Database

_WRITE_AND_CLOSE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=5)
connection.execute("CREATE TABLE another (x)")
connection.commit()
connection.close()
"""


async def test_opening_a_database_again_does_not_drop_the_locks_of_this_process(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    url = f"sqlite:///{file}"
    async with Database.open(url) as first:
        await first.ensure()
        async with first.read() as connection:
            await connection.execute(text("SELECT count(*) FROM connection"))
            async with Database.open(url):
                pass
            command = [sys.executable, "-c", _WRITE_AND_CLOSE, str(file)]
            await asyncio.to_thread(subprocess.run, command, check=True)
            # The last connection of all removes the log; that process must have seen that it was not the last.
            assert file.with_name("store.db-wal").exists()
