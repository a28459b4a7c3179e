"""A reading as a process that can be killed: `python -m tests.records.process URL SCHEMA HOST TOKEN KIND MODE`."""

import asyncio
import sys

from store.database import Database
from tests.records.support import reading_of


async def main(url: str, schema: str, host: str, token: str, kind: str, mode: str) -> None:
    async with Database.open(url, schema) as database, reading_of(database, host, token) as archive:
        await archive(kind, mode)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
