"""Working on actions: who works on one, when it is sent, what came of it (R3).

An action belongs to one worker at a time, for as long as its lease lasts (`store.action_leases`). Two rules are the
database's own, by unique indexes, so that they hold over any number of processes:

- Of actions that could not be told from each other at Kommo (`twin`) at most one is `sent`. So what is found there
  while one is looked up was made by it, or by one that ended before.
- What Kommo made belongs to one action (`made`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    RowMapping,
    case,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy import text as sql

from store.actions import TABLE, ActionRecord, ActionState, record_of
from store.database import Database, insert_on
from store.dbclock import SecondsClock, clock_expression
from store.outbox import OutboxEvent, add_events
from store.rows import given_rows
from store.types import CleanText, EpochSeconds, PlainJSON, UTCDateTime

NEVER = 1e12
"""A `due_at` that does not come."""
# Written out, not a parameter: the database must see that the partial index fits.
IS_OPEN = TABLE.c.state.in_([literal_column(f"'{state}'") for state in ("intended", "sent", "unknown")])
IS_SENT: ColumnElement[str] = literal_column("'sent'")
_NEW = {
    "action_id": CleanText,
    "kind": CleanText,
    "idempotency_key": CleanText,
    "digest": CleanText,
    "request": PlainJSON,
    "plan": PlainJSON,
    "twin": CleanText,
    "state": CleanText,
    "reason": CleanText,
    "reason_code": CleanText,
}


@dataclass(frozen=True, slots=True)
class NewAction:
    """An action to be journalled.

    Attributes:
        action_id: what it will be called to the outside.
        kind: its kind.
        idempotency_key: whose repetition is the same action.
        digest: what makes two requests the same.
        request: what was asked for.
        plan: what will be sent, as far as it is known.
        twin: what a second, equal action could not be told from at Kommo.
        reason: why it cannot be done; None if it can. With a reason it is `failed` from its beginning.
        reason_code: the same as a word.
    """

    action_id: str
    kind: str
    idempotency_key: str
    digest: str
    request: Any
    plan: Any
    twin: str
    reason: str | None = None
    reason_code: str | None = None


@dataclass(frozen=True, slots=True)
class HeldAction:
    """An action as its worker sees it: the record, and what the outside does not see."""

    id: int
    record: ActionRecord
    digest: str
    plan: Any
    twin: str
    made: str | None
    owner: str
    until: float
    sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an action.

    Attributes:
        id: which.
        state: `confirmed`, `failed` or `unknown`.
        result: what Kommo answered.
        made: what Kommo made, such as `tasks:17`; None for what makes nothing.
        reason: why, a sentence without secrets.
        reason_code: the same as a word.
        due_in: seconds until an unknown one is looked up again.
        event: what the product is told.
    """

    id: int
    state: ActionState
    event: OutboxEvent
    result: Any = None
    made: str | None = None
    reason: str | None = None
    reason_code: str | None = None
    due_in: float = NEVER


async def add_actions(
    db: Database,
    org: str,
    actions: Sequence[NewAction],
    owner: str,
    *,
    seconds: float,
    events: Mapping[str, OutboxEvent],
    now: datetime,
    clock: SecondsClock = time.time,
) -> list[HeldAction]:
    """Journal actions, each once for its key; those that are new belong to `owner`.

    Args:
        db: the store.
        org: the product's tenant.
        actions: what to journal.
        owner: a name that nobody else uses, new for each call.
        seconds: how long they belong to the owner.
        events: by action id, what the product is told of those that fail from their beginning.
        now: the present time.
        clock: seconds since 1970, used on SQLite.

    Returns:
        Those that were new.
    """
    rows = [
        (
            *(one.action_id, one.kind, one.idempotency_key, one.digest, one.request, one.plan, one.twin),
            ActionState.INTENDED.value if one.reason is None else ActionState.FAILED.value,
            *(one.reason, one.reason_code),
        )
        for one in actions
    ]
    async with db.begin() as connection:
        given = given_rows(connection, _NEW, rows)
        ours = given.c.state == ActionState.INTENDED.value
        until = clock_expression(connection, clock) + literal(seconds, EpochSeconds())
        more: dict[str, ColumnElement[Any]] = {
            "org": literal(org, CleanText()),
            "attempts": literal(0, BigInteger()),
            "owner": case((ours, literal(owner, CleanText())), else_=literal("", CleanText())),
            "until": case((ours, until), else_=literal(0.0, EpochSeconds())),
            "due_at": literal(0.0, EpochSeconds()),
            "created_at": literal(now, UTCDateTime()),
            "updated_at": literal(now, UTCDateTime()),
        }
        inserted = await connection.execute(
            insert_on(connection, TABLE)
            .from_select(
                [*_NEW, *more],
                # Without a condition SQLite would take ON CONFLICT for the condition of a join.
                select(*(given.c[name] for name in _NEW), *more.values()).where(sql("true")),
                include_defaults=False,
            )
            .on_conflict_do_nothing(index_elements=["org", "idempotency_key"])
            .returning(*TABLE.c)
        )
        new = [held_of(row) for row in inserted.mappings().all()]
        told = [events[one.record.action_id] for one in new if one.record.action_id in events]
        await add_events(connection, told, now)
    return new


async def mark_sent(
    db: Database,
    plans: Mapping[int, tuple[Any, str]],
    owner: str,
    seconds: float,
    *,
    sends: bool = True,
    now: datetime,
    clock: SecondsClock = time.time,
) -> set[int]:
    """Write down that actions are about to be sent; only what is marked may be.

    Args:
        db: the store.
        plans: by id, what is sent and its twin.
        owner: whose they are.
        seconds: how long they belong to the owner from now on.
        sends: False for an unknown one that is only looked up, which counts as no attempt.
        now: the present time.
        clock: seconds since 1970, used on SQLite.

    Returns:
        The ids that were marked. Not among them are those that were lost, that have a twin under way, or whose field
        has been set by a later action.

    Raises:
        WriteRefusedError: a twin was marked at the same moment; nothing was marked.
    """
    async with db.begin() as connection:
        types = {"id": BigInteger, "plan": PlainJSON, "twin": CleanText}
        given = given_rows(connection, types, [(number, *plan) for number, plan in plans.items()])
        twins, later = TABLE.alias("twins"), TABLE.alias("later")
        under_way = select(twins.c.id).where(
            twins.c.org == TABLE.c.org,
            twins.c.twin == given.c.twin,
            twins.c.state == IS_SENT,
            twins.c.id != TABLE.c.id,
        )
        values: dict[str, Any] = {
            "state": ActionState.SENT.value,
            "plan": given.c.plan,
            "twin": given.c.twin,
            "until": clock_expression(connection, clock) + literal(seconds, EpochSeconds()),
            "reason": None,
            "reason_code": None,
            "updated_at": literal(now, UTCDateTime()),
        }
        conditions = [TABLE.c.id == given.c.id, IS_OPEN, TABLE.c.owner == owner, ~under_way.exists()]
        if sends:
            values |= {"attempts": TABLE.c.attempts + 1, "sent_at": literal(now, UTCDateTime())}
            conditions.append(or_(TABLE.c.kind != "update-deal-field", ~was_set_later(later).exists()))
        marked = await connection.execute(
            update(TABLE).where(*conditions).values(values).returning(TABLE.c.id)
        )
        return set(marked.scalars())


async def conclude(
    db: Database,
    outcomes: Sequence[Outcome],
    owner: str,
    *,
    now: datetime,
    clock: SecondsClock = time.time,
) -> list[HeldAction]:
    """Write down what came of actions, and what the product is told, in one transaction; the leases end.

    Args:
        db: the store.
        outcomes: what came of which.
        owner: whose they are.
        now: the present time.
        clock: seconds since 1970, used on SQLite.

    Returns:
        Those that were concluded; one that another worker has taken over is not among them, and nothing is told of it.

    Raises:
        WriteRefusedError: what Kommo made belongs to another action already; nothing was written.
    """
    types = {
        "id": BigInteger,
        "state": CleanText,
        "result": PlainJSON,
        "made": CleanText,
        "reason": CleanText,
        "reason_code": CleanText,
        "due_in": EpochSeconds,
    }
    rows = [
        (one.id, one.state.value, one.result, one.made, one.reason, one.reason_code, one.due_in)
        for one in outcomes
    ]
    async with db.begin() as connection:
        given = given_rows(connection, types, rows)
        concluded = await connection.execute(
            update(TABLE)
            .where(TABLE.c.id == given.c.id, IS_OPEN, TABLE.c.owner == owner)
            .values(
                **{name: given.c[name] for name in ("state", "result", "made", "reason", "reason_code")},
                owner="",
                until=0.0,
                due_at=clock_expression(connection, clock) + given.c.due_in,
                updated_at=literal(now, UTCDateTime()),
            )
            .returning(*TABLE.c)
        )
        done = [held_of(row) for row in concluded.mappings().all()]
        ids = {one.id for one in done}
        await add_events(connection, [one.event for one in outcomes if one.id in ids], now)
    return done


def was_set_later(later: Any) -> Any:  # noqa: ANN401  an alias of the table, and a SELECT from it
    """What was asked for later of the same field, and has or may have been done; to be correlated with the table."""
    return select(later.c.id).where(
        later.c.org == TABLE.c.org,
        later.c.twin == TABLE.c.twin,
        later.c.id > TABLE.c.id,
        later.c.state.in_([literal_column(f"'{state}'") for state in ("sent", "confirmed", "unknown")]),
    )


def held_of(row: RowMapping) -> HeldAction:
    """A row as its worker sees it."""
    return HeldAction(
        row["id"],
        record_of(row),
        row["digest"],
        row["plan"],
        row["twin"],
        row["made"],
        row["owner"],
        row["until"],
        row["sent_at"],
    )
