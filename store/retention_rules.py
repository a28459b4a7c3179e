"""What may go when it has grown old, table by table: the rules of `store.retention`, and which tables have none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, exists, func, literal_column, or_, select, true

from store.actions import FINAL
from store.completeness import REMEMBERED
from store.kinds import KINDS
from store.runs import SnapshotState
from store.tables import (
    ActionRow,
    Connection,
    ConnectionAuditRow,
    OAuthStateRow,
    OutboxRow,
    RecordVersionRow,
    Snapshot,
    SnapshotHead,
    SyncRun,
    TokenJournalRow,
    WebhookCompletenessRow,
    WebhookDeliveryRow,
    WebhookEventRow,
    table_of,
)

_DELIVERY, _EVENT, _OUTBOX = table_of(WebhookDeliveryRow), table_of(WebhookEventRow), table_of(OutboxRow)
_ACTION, _AUDIT, _STATE = table_of(ActionRow), table_of(ConnectionAuditRow), table_of(OAuthStateRow)
_RUN, _SNAPSHOT, _HEAD = table_of(SyncRun), table_of(Snapshot), table_of(SnapshotHead)
_JOURNAL, _CONNECTION = table_of(TokenJournalRow), table_of(Connection)
_COMPLETENESS, _VERSION = table_of(WebhookCompletenessRow), table_of(RecordVersionRow)

RUNS_KEPT = 10
"""So many of an org's newest runs are kept at any age: one that is seldom synced has something to compare."""

Moment = ColumnElement[datetime]


class Walk(StrEnum):
    """How a table is walked.

    `rising`: by a key that rises with the rows' age, so that the first row that is too young is the end. `by_org`: by
    org, age and key; a row that is too young leads to the next org. `whole`: to the end.
    """

    RISING = "rising"
    BY_ORG = "by_org"
    WHOLE = "whole"


def _anything(_cut: Moment) -> ColumnElement[bool]:
    return true()


@dataclass(frozen=True)
class Rule:
    """What may go of one table.

    Attributes:
        name: the rule's.
        setting: whose age it goes by; several rules may share one.
        table: the table.
        key: its primary key.
        order: the columns that it is walked by; an index has them.
        moment: the column that an age is counted from.
        walk: see `Walk`.
        may_go: given the time before which things are old, whether a row may go at all.
        among: only these rows are looked at.
        children: tables that hang on it, and the column by which.
    """

    name: str
    setting: str
    table: Table
    key: str
    order: tuple[str, ...]
    moment: str
    walk: Walk
    may_go: Callable[[Moment], ColumnElement[bool]] = _anything
    among: ColumnElement[bool] | None = None
    children: tuple[tuple[Table, str], ...] = ()


def _settled(_cut: Moment) -> ColumnElement[bool]:
    """A delivery whose events are all worked off: one that waits or was given up may need its bytes."""
    unsettled = exists().where(
        _EVENT.c.delivery_id == _DELIVERY.c.delivery_id, _EVENT.c.state.in_(("pending", "dead"))
    )
    return and_(_DELIVERY.c.state == "stored", ~unsettled)


def _run_may_go(cut: Moment) -> ColumnElement[bool]:
    """A run that nobody needs: neither one of the newest, nor the one that says what held when the kept time begins."""
    newer, later = _RUN.alias("newer"), _SNAPSHOT.alias("later")
    is_saved = _SNAPSHOT.c.state == SnapshotState.SAVED
    mark = (
        select(newer.c.started_at)
        .where(newer.c.org == _RUN.c.org)
        .order_by(newer.c.started_at.desc())
        .limit(1)
        .offset(RUNS_KEPT - 1)
        .scalar_subquery()
    )
    saved_mark = (
        select(newer.c.started_at)
        .where(newer.c.org == _RUN.c.org, exists().where(_SNAPSHOT.c.run_id == newer.c.run_id, is_saved))
        .order_by(newer.c.started_at.desc())
        .limit(1)
        .offset(1)
        .scalar_subquery()
    )
    is_head = exists().where(_HEAD.c.org == _RUN.c.org, _HEAD.c.run_id == _RUN.c.run_id)
    succeeded = exists().where(
        later.c.org == _SNAPSHOT.c.org,
        later.c.kind == _SNAPSHOT.c.kind,
        later.c.taken_at > _SNAPSHOT.c.taken_at,
        later.c.taken_at <= cut,
        later.c.state == SnapshotState.SAVED,
    )
    is_needed = exists().where(_SNAPSHOT.c.run_id == _RUN.c.run_id, is_saved, ~succeeded)
    # An org of which there are fewer has no mark: nothing of it goes.
    saves_nothing = ~exists().where(_SNAPSHOT.c.run_id == _RUN.c.run_id, is_saved)
    return and_(
        _RUN.c.started_at < mark,
        or_(saves_nothing, _RUN.c.started_at < saved_mark),
        ~is_head,
        ~is_needed,
    )


def _unseen(table: Table) -> Callable[[Moment], ColumnElement[bool]]:
    """A version that no kept snapshot shows: it ended before, or when, the first of them was taken."""
    first = (
        select(func.min(_SNAPSHOT.c.taken_at))
        .where(
            _SNAPSHOT.c.org == table.c.org,
            _SNAPSHOT.c.kind == table.c.kind,
            _SNAPSHOT.c.state == SnapshotState.SAVED,
        )
        .scalar_subquery()
    )

    def may_go(_cut: Moment) -> ColumnElement[bool]:
        return and_(table.c.valid_to.is_not(None), table.c.valid_to <= first)

    return may_go


def _used_up(_cut: Moment) -> ColumnElement[bool]:
    """A pair that was in use, or is dead, and neither is the current one nor comes after it.

    A pair that never came to its block may be the only one that works (T3); the current one is where the chain is
    walked from, and what was written behind it may be its child.
    """
    current = _JOURNAL.alias("current")
    behind = (
        select(current.c.id)
        .join(
            _CONNECTION,
            and_(
                _CONNECTION.c.org == current.c.org, _CONNECTION.c.token_fingerprint == current.c.fingerprint
            ),
        )
        .where(current.c.org == _JOURNAL.c.org)
        .scalar_subquery()
    )
    return and_(
        or_(_JOURNAL.c.promoted_at.is_not(None), _JOURNAL.c.dead_at.is_not(None)), _JOURNAL.c.id < behind
    )


def _not_remembered(_cut: Moment) -> ColumnElement[bool]:
    """A comparison that is not looked at when the end of the unbroken ones is sought."""
    newer = _COMPLETENESS.alias("newer")
    mark = (
        select(newer.c.id)
        .where(newer.c.org == _COMPLETENESS.c.org)
        .order_by(newer.c.id.desc())
        .limit(1)
        .offset(REMEMBERED - 1)
        .scalar_subquery()
    )
    return _COMPLETENESS.c.id < mark


def _in_state(table: Table, *states: str) -> Callable[[Moment], ColumnElement[bool]]:
    def may_go(_cut: Moment) -> ColumnElement[bool]:
        return table.c.state.in_(states)

    return may_go


def _rising(name: str, table: Table, moment: str, setting: str = "", **more: Any) -> Rule:
    return Rule(name, setting or name, table, "id", ("id",), moment, Walk.RISING, **more)


def _versions() -> list[Rule]:
    return [
        Rule(
            f"versions of {table.name}",
            "runs",
            table,
            *("id", ("org", "kind", "valid_to", "id"), "valid_to", Walk.WHOLE),
            may_go=_unseen(table),
            among=table.c.valid_to.is_not(None),
        )
        for table in sorted({kind.table for kind in KINDS.values()}, key=lambda table: table.name)
    ]


def _dead_of(table: Table) -> ColumnElement[bool]:
    return table.c.state == literal_column("'dead'")  # written out, so that the partial index fits


RULES: tuple[Rule, ...] = (
    Rule(
        "deliveries",
        "deliveries",
        _DELIVERY,
        *("delivery_id", ("org", "received_at", "delivery_id"), "received_at", Walk.BY_ORG),
        may_go=_settled,
    ),
    _rising("events", _EVENT, "received_at", may_go=_in_state(_EVENT, "done", "duplicate")),
    _rising("dead events", _EVENT, "received_at", "dead_letters", among=_dead_of(_EVENT)),
    Rule(
        "unreadable deliveries",
        "dead_letters",
        _DELIVERY,
        *("delivery_id", ("org", "received_at", "delivery_id"), "received_at", Walk.BY_ORG),
        among=_DELIVERY.c.state == literal_column("'unreadable'"),
    ),
    _rising("told", _OUTBOX, "created_at", may_go=_in_state(_OUTBOX, "delivered")),
    _rising("dead of the outbox", _OUTBOX, "created_at", "dead_letters", among=_dead_of(_OUTBOX)),
    _rising("actions", _ACTION, "created_at", may_go=_in_state(_ACTION, *sorted(FINAL))),
    # Snapshots before versions: what may go of these is told by what is left of those.
    Rule(
        "runs",
        "runs",
        _RUN,
        *("run_id", ("org", "started_at", "run_id"), "started_at", Walk.BY_ORG),
        may_go=_run_may_go,
        children=((_SNAPSHOT, "run_id"),),
    ),
    *_versions(),
    _rising("record versions", _VERSION, "known_until", "record_versions"),
    _rising("tokens", _JOURNAL, "created_at", may_go=_used_up),
    Rule(
        "consents",
        "consents",
        _STATE,
        *("state_hash", ("expires_at", "state_hash"), "expires_at", Walk.RISING),
    ),
    Rule(
        "completeness",
        "completeness",
        _COMPLETENESS,
        *("id", ("org", "id"), "measured_at", Walk.WHOLE),
        may_go=_not_remembered,
    ),
    _rising("audit", _AUDIT, "at"),
)

AGELESS: Mapping[str, str] = {
    "api_key": "a key holds until it is revoked",
    "backlog_turn": "one row for each org",
    "connection": "one row for each org",
    "outbox_endpoint": "one row for each address that is in trouble",
    "outbox_turn": "one row for each org",
    "rate_budget": "one row for each account and outgoing address",
    "record": "the mirror: it holds what Kommo holds",
    "fleet_alarm": "one row for each kind of alarm",
    "record_history": "one row for each org and kind whose history is kept",
    "record_sync": "one row for each org and kind",
    "refresh_claim": "one row for each org, whose serial only grows",
    "snapshot_head": "one row for each org and kind",
    "sync_turn": "one row for each org",
    "webhook_key": "a few rows for each org",
    "webhook_subscription": "one row for each org",
}
"""Tables without a rule, and why; `kommo org erase` removes them with the org."""

__all__ = ["AGELESS", "RULES", "RUNS_KEPT", "Rule", "Walk"]
