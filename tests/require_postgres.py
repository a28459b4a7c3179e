"""Fail with a sentence when the PostgreSQL that the tests need is not there; a skipped test proves nothing."""

import asyncio
import os
import sys

import asyncpg


async def main() -> int:
    """Connect once."""
    url = os.environ["KOMMO_TEST_POSTGRES_URL"].replace("postgresql+asyncpg://", "postgresql://")
    try:
        connection = await asyncpg.connect(url, timeout=10)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        sys.stderr.write(
            f"PostgreSQL is required and did not answer ({type(error).__name__}). "
            "Start it, or point KOMMO_TEST_POSTGRES_URL at one.\n"
        )
        return 1
    sys.stdout.write(f"PostgreSQL {await connection.fetchval('show server_version')}\n")
    await connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
