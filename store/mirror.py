"""The mirror of all kinds of records: each as last read, whoever read it (W2, W5).

The newest `updated_at` wins, and of two with the same what was asked for later: Kommo counts seconds, and a slow
answer may be overtaken. A record that is gone leaves a tombstone, so that an old answer does not bring it back.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import literal, select, update
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database, insert_on
from store.mirror_facts import Change, ChangeKind, Facts, RecordState, StoredRecord
from store.mirror_rows import NewRecord, digest_of_record, values_of
from store.mirror_sql import ONE_OF, TABLE, Place, among, by_key, insert_unknown, replace_rows, these
from store.record_history import keep_versions
from store.rows import given_rows
from store.types import CleanText, PlainJSON, UTCDateTime

__all__ = [
    "Change",
    "ChangeKind",
    "Facts",
    "NewRecord",
    "RecordState",
    "StoredRecord",
    "get_record",
    "mark_gone",
    "record_states",
    "save_records",
    "some_record",
]


_FACTS = tuple(Facts.__dataclass_fields__)


async def save_records(
    connection: AsyncConnection,
    org: str,
    entity: str,
    records: Sequence[NewRecord],
    source: str,
    *,
    now: datetime,
) -> dict[int, Change]:
    """Write records as they were read, inside another transaction.

    Args:
        connection: from `Database.begin`.
        org: the product's tenant.
        entity: `leads`, `contacts`, `companies` or `tasks`.
        records: as the API gave them; of two with one id the newer one counts.
        source: what made us ask: `webhook`, `reconcile` or `sync`.
        now: the present time.

    Returns:
        What it came to, for each id.
    """
    newest: dict[int, NewRecord] = {}
    for record in records:
        known = newest.get(record.record_id)
        if known is None or _is_newer(record, known.updated_at, known.read_at):
            newest[record.record_id] = record
    if not newest:
        return {}
    place = Place(org, entity, source, now)
    # In the order of their ids, as everybody locks them.
    wanted = [(newest[record_id], digest_of_record(newest[record_id])) for record_id in sorted(newest)]
    there = await _known(connection, org, entity, list(newest))
    unknown = [one for one in wanted if one[0].record_id not in there]
    made: set[int] = set()
    if unknown:
        made = await insert_unknown(connection, place, [values_of(*one) for one in unknown])
    changes = {
        one.record_id: Change(ChangeKind.CREATED, None, _after(one, digest, place, now))
        for one, digest in unknown
        if one.record_id in made
    }
    others = [one for one in wanted if one[0].record_id not in made]
    if others:
        before = await _lock(connection, org, entity, [one.record_id for one, _ in others])
        for one, digest in others:
            changes[one.record_id] = _judge(one, digest, before[one.record_id], place)
        await _write(connection, place, others, changes)
    return changes


async def _write(
    connection: AsyncConnection,
    place: Place,
    given: Sequence[tuple[NewRecord, str]],
    changes: Mapping[int, Change],
) -> None:
    """Also what did not change: an answer that was asked for before this one must not win over it."""
    better: list[tuple[NewRecord, str]] = []
    same: dict[datetime, list[int]] = {}
    for one, digest in given:
        change = changes[one.record_id]
        if change.kind is ChangeKind.OLDER:
            continue
        if (
            change.kind is ChangeKind.UNCHANGED
            and change.before
            and change.before.updated_at == one.updated_at
        ):
            same.setdefault(one.read_at, []).append(one.record_id)
        else:
            better.append((one, digest))
    if better:
        replaced = {ChangeKind.UPDATED, ChangeKind.RESTORED}
        ids = [one.record_id for one, _ in better if changes[one.record_id].kind in replaced]
        await keep_versions(connection, (place.org, place.entity), ids, until=place.now)
        await replace_rows(connection, place, [values_of(*one) for one in better])
    for read_at, ids in same.items():
        await connection.execute(
            update(TABLE)
            .where(among(connection, (place.org, place.entity), ids))
            .values(read_at=read_at, source=place.source)
        )


async def _known(connection: AsyncConnection, org: str, entity: str, ids: Sequence[int]) -> set[int]:
    query = by_key(connection, (org, entity), ids, [TABLE.c.record_id])
    return set((await connection.execute(query)).scalars())


async def mark_gone(
    connection: AsyncConnection,
    org: str,
    entity: str,
    ids: Sequence[int],
    state: RecordState | str,
    *,
    now: datetime,
    source: str = "webhook",
) -> dict[int, Facts | None]:
    """Note that records are gone, inside another transaction. An unknown one leaves a tombstone as well.

    Args:
        connection: from `Database.begin`.
        org: the product's tenant.
        entity: `leads`, `contacts`, `companies` or `tasks`.
        ids: Kommo's ids.
        state: `deleted` or `missing`; a deleted one does not become a missing one.
        now: when it was found out; a record that was read later stays.
        source: what made us look.

    Returns:
        What changed, with what was known before (None: nothing).
    """
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    state = RecordState(state)
    given = given_rows(connection, ONE_OF, [(one,) for one in wanted])
    values = {
        "org": literal(org, CleanText()),
        "entity": literal(entity, CleanText()),
        "raw": literal({}, PlainJSON()),
        "digest": literal("", CleanText()),
        "state": literal(state, CleanText()),
        "state_since": literal(now, UTCDateTime()),
        "read_at": literal(now, UTCDateTime()),
        "source": literal(source, CleanText()),
    }
    tombs = (
        insert_on(connection, TABLE)
        .from_select(
            ["record_id", *values],
            select(given.c.record_id, *values.values()).where(sql("true")),
            include_defaults=False,
        )
        .on_conflict_do_nothing(index_elements=["org", "entity", "record_id"])
        .returning(TABLE.c.record_id)
    )
    changed: dict[int, Facts | None] = dict.fromkeys((await connection.execute(tombs)).scalars())
    known = [one for one in wanted if one not in changed]
    before = await _lock(connection, org, entity, known) if known else {}
    leaves = (
        (RecordState.PRESENT, RecordState.MISSING) if state == RecordState.DELETED else (RecordState.PRESENT,)
    )
    going = {one: facts for one, facts in before.items() if facts.state in leaves and facts.read_at <= now}
    if going:
        await keep_versions(connection, (org, entity), list(going), until=now)
        await connection.execute(
            update(TABLE)
            .where(among(connection, (org, entity), list(going)))
            .values(state=state, state_since=now, read_at=now, source=source)
        )
    return changed | going


async def get_record(db: Database, org: str, entity: str, record_id: int) -> StoredRecord | None:
    """One record, also one that is gone."""
    query = select(*(TABLE.c[name] for name in StoredRecord.__dataclass_fields__)).where(
        these(org, entity), TABLE.c.record_id == record_id
    )
    async with db.read() as connection:
        row = (await connection.execute(query)).mappings().first()
    return None if row is None else StoredRecord(**row)


async def some_record(db: Database, org: str, entity: str, *, besides: Sequence[int]) -> int | None:
    """The newest record that is there and is none of these: something to compare with. None if there is none.

    Args:
        db: the store.
        org: the product's tenant.
        entity: `leads`, `contacts`, `companies` or `tasks`.
        besides: ids that will not do.
    """
    async with db.read() as connection:
        others = given_rows(connection, ONE_OF, [(one,) for one in set(besides)])
        query = (
            select(TABLE.c.record_id)
            .where(
                these(org, entity),
                TABLE.c.state == RecordState.PRESENT,
                TABLE.c.record_id.not_in(select(others.c.record_id)),
            )
            .order_by(TABLE.c.record_id.desc())
            .limit(1)
        )
        return (await connection.execute(query)).scalar()


async def record_states(
    db: Database, org: str, entity: str, ids: Sequence[int] | None = None
) -> dict[int, Facts]:
    """What is known of these records (by default of all of this entity); one that is unknown is left out."""
    query = select(TABLE.c.record_id, *(TABLE.c[name] for name in _FACTS)).where(these(org, entity))
    async with db.read() as connection:
        if ids is not None:
            columns = [TABLE.c.record_id, *(TABLE.c[name] for name in _FACTS)]
            query = by_key(connection, (org, entity), sorted(set(ids)), columns)
        found = await connection.execute(query)
        return {row[0]: Facts(*row[1:]) for row in found}


async def _lock(connection: AsyncConnection, org: str, entity: str, ids: Sequence[int]) -> dict[int, Facts]:
    columns = [TABLE.c.record_id, *(TABLE.c[name] for name in _FACTS)]
    locking = by_key(connection, (org, entity), ids, columns, lock=True)
    return {row[0]: Facts(*row[1:]) for row in await connection.execute(locking)}


def _judge(one: NewRecord, digest: str, before: Facts, place: Place) -> Change:
    if before.state != RecordState.PRESENT:
        # Neither deleting nor restoring need change `updated_at`: what was seen later is true.
        if one.read_at <= before.read_at:
            return Change(ChangeKind.OLDER, before, before)
        return Change(ChangeKind.RESTORED, before, _after(one, digest, place, place.now))
    if not _is_newer(one, before.updated_at, before.read_at):
        return Change(ChangeKind.OLDER, before, before)
    kind = ChangeKind.UNCHANGED if digest == before.digest else ChangeKind.UPDATED
    return Change(kind, before, _after(one, digest, place, before.state_since))


def _is_newer(one: NewRecord, updated_at: datetime | None, read_at: datetime) -> bool:
    if one.updated_at is None or updated_at is None or one.updated_at == updated_at:
        return one.read_at >= read_at
    return one.updated_at > updated_at


def _after(one: NewRecord, digest: str, place: Place, since: datetime) -> Facts:
    return Facts(
        RecordState.PRESENT,
        one.name,
        one.responsible_user_id,
        one.status_id,
        one.pipeline_id,
        one.created_at,
        one.updated_at,
        since,
        one.read_at,
        place.source,
        digest,
    )
