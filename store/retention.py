"""Retention: what has grown old goes, in short transactions, and never what is still to be worked, told or shown.

A rule names a table, the order in which it is walked, the time that an age is counted from, and what may go at all.
A walk reads pages in that order and stops, or goes on to the next org, where rows are too young. So it needs no index
that the intake would have to pay for, and one that was cut off is simply begun again.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    RowMapping,
    Table,
    and_,
    case,
    delete,
    literal,
    select,
    true,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database
from store.retention_rules import RULES, Rule, Walk
from store.types import UTCDateTime

__all__ = ["RULES", "Ages", "Cut", "Removal", "remove_old"]

_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
_Pause = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Ages:
    """How old what is kept may become, in days; 0 is for ever.

    Attributes:
        days: for each rule's `setting`.
        orgs: org → setting → days, where an org has other ones.
    """

    days: Mapping[str, int]
    orgs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def cut(self, setting: str, now: datetime) -> "Cut":
        """From when on rows are kept, of all orgs and of each that has an age of its own."""
        own = {org: _before(ages[setting], now) for org, ages in self.orgs.items() if setting in ages}
        return Cut(_before(self.days.get(setting, 0), now), own)


@dataclass(frozen=True)
class Cut:
    """What is older than this may go; None: nothing may."""

    general: datetime | None
    orgs: Mapping[str, datetime | None]

    def of(self, org: str) -> datetime | None:
        """The cut of one org."""
        return self.orgs.get(org, self.general)

    @property
    def latest(self) -> datetime | None:
        """No row that is younger may go, whose ever it is."""
        return max((one for one in (self.general, *self.orgs.values()) if one), default=None)

    def of_row(self, org: ColumnElement[str]) -> ColumnElement[datetime]:
        """The cut of a row, for a statement."""
        general = literal(self.general or _FIRST, UTCDateTime())
        if not self.orgs:
            return general
        own = [(org == name, literal(one or _FIRST, UTCDateTime())) for name, one in self.orgs.items()]
        return case(*own, else_=general)


@dataclass
class Removal:
    """What one rule came to. `rows`: of the table itself; `with_them`: of others that hang on it."""

    rule: str
    setting: str
    table: str
    rows: int = 0
    with_them: int = 0


async def remove_old(
    db: Database,
    rule: Rule,
    ages: Ages,
    *,
    now: datetime,
    dry_run: bool = False,
    batch: int = 1000,
    pause: _Pause | None = None,
) -> Removal:
    """Remove what a rule lets go of, a batch to a transaction.

    Args:
        db: the store.
        rule: one of `RULES`.
        ages: how old rows may become.
        now: the present time.
        dry_run: only count.
        batch: rows that are looked at, and at most removed, in one transaction.
        pause: awaited between two batches, so that others get at a database with one writer.
    """
    removal = Removal(rule.name, rule.setting, rule.table.name)
    cut = ages.cut(rule.setting, now)
    if cut.latest is None:
        return removal
    may_go = and_(_among(rule), rule.may_go(cut.of_row(rule.table.c.org)))
    after: tuple[Any, ...] | None = None
    while True:
        rows = await _page(db, rule, may_go, after, batch)
        old = [row["pk"] for row in rows if row["may_go"] and _is_old(row, cut)]
        if dry_run:
            removal.rows += len(old)
        elif old:
            async with db.begin() as connection:
                await _delete(connection, rule, may_go, old, removal)
        if len(rows) < batch:
            return removal
        after = _go_on(rule, rows[-1], cut)
        if after is None:
            return removal
        if pause is not None:
            await pause()


async def _page(
    db: Database, rule: Rule, may_go: ColumnElement[bool], after: tuple[Any, ...] | None, batch: int
) -> Sequence[RowMapping]:
    columns = rule.table.c
    query = (
        select(
            columns[rule.key].label("pk"),
            columns.org,
            columns[rule.moment].label("moment"),
            case((may_go, 1), else_=0).label("may_go"),
            *(columns[name].label(f"at_{number}") for number, name in enumerate(rule.order)),
        )
        .where(_among(rule))
        .order_by(*(columns[name] for name in rule.order))
        .limit(batch)
    )
    if after is not None:
        place = [columns[name] for name in rule.order]
        ends = [literal(value, column.type) for value, column in zip(after, place, strict=True)]
        query = query.where(tuple_(*place) > tuple_(*ends))
    async with db.read() as connection:
        return (await connection.execute(query)).mappings().all()


def _among(rule: Rule) -> ColumnElement[bool]:
    return true() if rule.among is None else rule.among


def _is_old(row: RowMapping, cut: Cut) -> bool:
    limit = cut.of(row["org"])
    return limit is not None and row["moment"] < limit


def _go_on(rule: Rule, last: RowMapping, cut: Cut) -> tuple[Any, ...] | None:
    """Behind which place the walk goes on after this row; None where it has come to its end."""
    here = tuple(last[f"at_{number}"] for number in range(len(rule.order)))
    if rule.walk is Walk.RISING and cut.latest is not None and last["moment"] >= cut.latest:
        return None
    if rule.walk is Walk.BY_ORG and not _is_old(last, cut):  # what follows of this org is younger still
        return (here[0], _LAST, *here[2:])
    return here


async def _delete(
    connection: AsyncConnection, rule: Rule, may_go: ColumnElement[bool], keys: list[Any], removal: Removal
) -> None:
    """Remove these rows, if they still may go, after what hangs on them."""
    key = rule.table.c[rule.key]
    if rule.children:
        still = select(key).where(key.in_(keys), may_go).with_for_update()
        keys = list((await connection.execute(still)).scalars())
        for child, column in rule.children:
            gone = await connection.execute(delete(child).where(child.c[column].in_(keys)))
            removal.with_them += gone.rowcount
        removal.rows += (await connection.execute(_by_key(rule.table, key, keys))).rowcount
        return
    removal.rows += (await connection.execute(_by_key(rule.table, key, keys).where(may_go))).rowcount


def _by_key(table: Table, key: ColumnElement[Any], keys: list[Any]) -> Delete:
    return delete(table).where(key.in_(keys))


def _before(days: int, now: datetime) -> datetime | None:
    return now - timedelta(days=days) if days > 0 else None
