"""`kommo db`: the project's own tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployments.cli.output import print_json, say

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
