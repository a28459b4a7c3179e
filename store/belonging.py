"""Which rows concern an org: those that name it, and what came for its account when nobody was connected to it."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Table, and_, func, literal_column, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.tables import Connection, WebhookDeliveryRow, table_of

_CONNECTION, _DELIVERY = table_of(Connection), table_of(WebhookDeliveryRow)


@dataclass(frozen=True)
class Who:
    """The org, and what is its own alone: no account and no key of the budget that another org has as well."""

    org: str
    account_id: int | None = None
    budget_keys: tuple[str, ...] = ()


async def who_is(connection: AsyncConnection, org: str) -> Who:
    """What an org is known by; of one that is not connected any more, its name alone."""
    query = select(_CONNECTION.c.account_id, _CONNECTION.c.host).where(_CONNECTION.c.org == org)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return Who(org)
    shared = select(func.count()).where(
        _CONNECTION.c.org != org,
        or_(_CONNECTION.c.account_id == row.account_id, _CONNECTION.c.host == row.host),
    )
    if (await connection.execute(shared)).scalar_one():
        return Who(org)
    return Who(org, row.account_id, tuple(f"account:{name}" for name in (row.account_id, row.host) if name))


def rows_of(table: Table, who: Who) -> ColumnElement[bool]:
    """The rows of a table with a column `org` that concern this one."""
    named = table.c.org == who.org
    if table.name == _DELIVERY.name and who.account_id is not None:
        # Written out, so that the partial index fits.
        nobodys = table.c.org == literal_column("''")
        return or_(named, and_(nobodys, table.c.account_id == who.account_id))
    return named
