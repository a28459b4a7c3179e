"""What every command and every flow of one installation shares: its database and its request budget.

Knows nothing of Prefect, so that a command that only reads the store does not pay for importing it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from blocks.place import find_database
from blocks.settings import Settings
from store.budget import DatabaseBudget
from store.database import Database


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """This installation's database, open and migrated as far as it may be without asking."""
    async with await find_database(settings) as database:
        await database.ensure()
        yield database


def budget_of(database: Database, settings: Settings) -> DatabaseBudget:
    """The request budget that all processes of this installation share."""
    rate, egress = settings.requests_per_second, settings.egress_requests_per_second
    return DatabaseBudget(database, limits={"account": rate, "egress": rate if egress is None else egress})
