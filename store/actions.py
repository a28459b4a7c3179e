"""Actions: what the product asked to be done at Kommo, and what came of it (R3).

A row is there before anything is sent, and says `sent` before the request goes out. So whoever finds it knows what may
be done: `intended` was never sent and may be; `sent` may have been done and must be looked up before anything else.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import RowMapping, select

from store.database import Database
from store.tables import ActionRow, table_of

TABLE = table_of(ActionRow)


class ActionState(StrEnum):
    """How an action stands. `confirmed` and `failed` are for good; `unknown` is looked up again by and by."""

    INTENDED = "intended"
    SENT = "sent"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    UNKNOWN = "unknown"


FINAL = frozenset({ActionState.CONFIRMED, ActionState.FAILED})


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """One action. Times are aware and UTC.

    Attributes:
        action_id: what it is called to the outside (32 hex digits).
        org: the product's tenant.
        kind: `send-message`, `create-task`, `update-deal-field` or `add-note`.
        idempotency_key: whose repetition is the same action.
        request: what was asked for, JSON.
        state: how it stands.
        result: what Kommo answered, JSON; its keys are told in docs/decisions/2026-11-25-actions.md.
        reason: why it failed, why it is unknown, or what it waits for: a sentence for a person.
        reason_code: the same as a word for programs.
        attempts: how often it was sent.
        created_at: when it was asked for.
        updated_at: when its state changed last.
    """

    action_id: str
    org: str
    kind: str
    idempotency_key: str
    request: Any
    state: ActionState
    result: Any
    reason: str | None
    reason_code: str | None
    attempts: int
    created_at: datetime
    updated_at: datetime

    @property
    def is_final(self) -> bool:
        """Whether it stays so."""
        return self.state in FINAL


_SHOWN = tuple(ActionRecord.__slots__)


async def get_action(db: Database, org: str, action_id: str) -> ActionRecord | None:
    """One action of an org; None if the org has none of this id."""
    query = select(*(TABLE.c[name] for name in _SHOWN)).where(
        TABLE.c.org == org, TABLE.c.action_id == action_id
    )
    async with db.read() as connection:
        row = (await connection.execute(query)).mappings().first()
    return None if row is None else record_of(row)


async def list_actions(
    db: Database,
    org: str | None = None,
    state: ActionState | None = None,
    limit: int = 100,
    after: str | None = None,
) -> list[ActionRecord]:
    """A page of actions, the newest first.

    Args:
        db: the store.
        org: only this org's.
        state: only those that stand so.
        limit: at most so many.
        after: the `action_id` of the last one of the page before.
    """
    query = select(*(TABLE.c[name] for name in _SHOWN)).order_by(TABLE.c.id.desc()).limit(limit)
    if org is not None:
        query = query.where(TABLE.c.org == org)
    if state is not None:
        query = query.where(TABLE.c.state == state)
    if after is not None:
        last = select(TABLE.c.id).where(TABLE.c.action_id == after).scalar_subquery()
        query = query.where(TABLE.c.id < last)
    async with db.read() as connection:
        return [record_of(row) for row in (await connection.execute(query)).mappings()]


def record_of(row: RowMapping) -> ActionRecord:
    """A row, or a part of one, as the outside sees it."""
    values = {name: row[name] for name in _SHOWN}
    return ActionRecord(**values | {"state": ActionState(values["state"])})
