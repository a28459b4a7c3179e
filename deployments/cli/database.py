"""`kommo db`: the project's own tables."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.cli.output import print_json, say
from deployments.cli.run import WrongUseError
from store.copying import copy_sqlite

if TYPE_CHECKING:
    from store.migrate import SchemaState

_WORDS = {
    "empty": "There are no tables; the first command that needs them makes them.",
    "current": "The tables are of this version.",
    "behind": "The tables are of an older version: run `kommo db upgrade`.",
    "unknown": "The tables were made by a newer version of this project: update this installation.",
}


def _words(state: SchemaState) -> str:
    revision = f" (revision {state.revision})" if state.revision else ""
    return f"{_WORDS[state.name]}{revision}"


async def upgrade(revision: str = "head") -> None:
    """Bring the tables to this version of the project.

    Args:
        revision: A revision of the migrations; head is the newest.
    """
    from blocks.place import find_database
    from blocks.settings import Settings

    async with await find_database(Settings()) as database:
        await database.upgrade(revision)
        say(_words(await database.state()))


async def downgrade(revision: str) -> None:
    """Take the tables back to an older version; what only newer versions keep is lost.

    Args:
        revision: The revision to go back to, -1 for one step, base for no tables at all.
    """
    from blocks.place import find_database
    from blocks.settings import Settings

    async with await find_database(Settings()) as database:
        await database.downgrade(revision)
        say(_words(await database.state()))


async def state(*, json: bool = False) -> None:
    """Say which version the tables have and where they are; never the password.

    Args:
        json: Print it as JSON.
    """
    from blocks.place import find_database
    from blocks.settings import Settings

    async with await find_database(Settings()) as database:
        found = await database.state()
        if json:
            print_json({"database": database.address.shown, "state": found.name, "revision": found.revision})
        else:
            say(f"{database.address.shown}: {_words(found)}")


async def backup(file: Path, *, source: Path | None = None, json: bool = False) -> None:
    """Copy an SQLite database, whole and of one moment, while it is in use. For PostgreSQL use pg_dump.

    Args:
        file: The copy; a file that is there already is left alone.
        source: Copy this SQLite file in place of our own database, such as Prefect's.
        json: Print what was written as JSON.
    """
    if source is None:
        from blocks.place import find_database
        from blocks.settings import Settings

        async with await find_database(Settings()) as database:
            source = database.address.file
            if source is None:
                raise WrongUseError(
                    f"{database.address.shown} is on PostgreSQL, which has a better tool: pg_dump --format=custom "
                    f"--schema={database.address.schema}. docs/backup-and-restore.md has the whole command."
                )
    made = await asyncio.to_thread(copy_sqlite, source, file)
    if json:
        print_json(asdict(made))
    else:
        say(f"{made.file}: {made.size / 1e6:.1f} MB, checked, sha256 {made.sha256}")
        say("Keep it apart from the keys: docs/backup-and-restore.md says which, and how to restore.")
