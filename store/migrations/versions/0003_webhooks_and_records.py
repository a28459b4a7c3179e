"""The inbox of webhooks and its backlog, the mirror of records, and how completely webhooks tell of changes.

A downgrade removes what Kommo has told and what is not worked off yet: let the backlog run empty first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True)
_NEW_TABLES = (
    *("webhook_key", "webhook_delivery", "webhook_event", "backlog_turn"),
    *("record", "webhook_completeness", "webhook_subscription"),
)


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null)


def _time(name: str, *, null: bool = False) -> sa.Column:
    return sa.Column(name, _TIME, nullable=null)


def _number(name: str, *, null: bool = True) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))


def _seconds(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double(), nullable=False)


def _json(name: str) -> sa.Column:
    return sa.Column(name, _JSON, nullable=False)


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


def _deliveries() -> None:
    op.create_table(
        "webhook_key",
        *(_text(name) for name in ("key_hash", "org")),
        _number("account_id"),
        _time("created_at"),
        _time("revoked_at", null=True),
        sa.PrimaryKeyConstraint("key_hash", name="pk_webhook_key"),
    )
    op.create_index("ix_webhook_key_org", "webhook_key", ["org"])
    op.create_table(
        "webhook_delivery",
        *(_text(name) for name in ("delivery_id", "org")),
        _number("account_id"),
        _text("door"),
        _time("received_at"),
        _text("content_type", null=True),
        _json("headers"),
        _text("request_id", null=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        *(_text(name) for name in ("body_hash", "state")),
        _text("reason", null=True),
        _counter("event_count"),
        sa.PrimaryKeyConstraint("delivery_id", name="pk_webhook_delivery"),
    )
    op.create_index("ix_webhook_delivery_org_received", "webhook_delivery", ["org", "received_at"])
    _index(
        "ix_webhook_delivery_unreadable",
        "webhook_delivery",
        ["org", "received_at", "delivery_id"],
        "state = 'unreadable'",
    )


def _events() -> None:
    table, pending = "webhook_event", "state = 'pending'"
    op.create_table(
        table,
        _id(),
        _text("delivery_id"),
        _number("position", null=False),
        *(_text(name) for name in ("org", "entity", "action", "entity_id")),
        _text("parent", null=True),
        _time("occurred_at", null=True),
        _time("received_at"),
        _text("unique_key"),
        _json("payload"),
        _text("state"),
        _counter("attempts"),
        _seconds("due_at"),
        _text("reason", null=True),
        _time("settled_at", null=True),
        _text("outcome", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_event"),
    )
    _index("uq_webhook_event_key", table, ["org", "unique_key"], "state <> 'duplicate'", unique=True)
    op.create_index("uq_webhook_event_delivery", table, ["delivery_id", "position"], unique=True)
    _index("ix_webhook_event_due", table, ["org", "due_at", "id"], pending)
    _index("ix_webhook_event_waiting", table, ["org", "entity", "entity_id", "id"], pending)
    _index("ix_webhook_event_dead", table, ["org", "id"], "state = 'dead'")
    op.create_index("ix_webhook_event_entity", table, ["org", "entity", "entity_id", "occurred_at"])
    op.create_table(
        "backlog_turn",
        *(_text(name) for name in ("org", "owner")),
        _seconds("until"),
        _counter("serial"),
        _seconds("not_before"),
        _text("reason", null=True),
        _seconds("served_at"),
        sa.PrimaryKeyConstraint("org", name="pk_backlog_turn"),
    )


def _records() -> None:
    op.create_table(
        "record",
        *(_text(name) for name in ("org", "entity")),
        _number("record_id", null=False),
        _text("name", null=True),
        *(_number(name) for name in ("responsible_user_id", "status_id", "pipeline_id")),
        *(_time(name, null=True) for name in ("created_at", "updated_at")),
        _json("raw"),
        *(_text(name) for name in ("digest", "state")),
        *(_time(name) for name in ("state_since", "read_at")),
        _text("source"),
        sa.PrimaryKeyConstraint("org", "entity", "record_id", name="pk_record"),
    )
    op.create_table(
        "webhook_completeness",
        _id(),
        _text("org"),
        *(_time(name) for name in ("since", "until")),
        *(_number(name, null=False) for name in ("changes", "arrived", "repaired")),
        _json("by_entity"),
        _time("measured_at"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_completeness"),
    )
    op.create_index("ix_webhook_completeness_org_id", "webhook_completeness", ["org", "id"])
    op.create_table(
        "webhook_subscription",
        _text("org"),
        *(_text(name, null=True) for name in ("key_hash", "destination_host")),
        _json("settings"),
        _text("state"),
        _text("reason", null=True),
        _time("checked_at"),
        _time("disabled_seen_at", null=True),
        sa.PrimaryKeyConstraint("org", name="pk_webhook_subscription"),
    )


def upgrade() -> None:
    _deliveries()
    _events()
    _records()


def downgrade() -> None:
    for table in _NEW_TABLES:
        op.drop_table(table)
