"""Telling the product: whose turn it is to tell an org's events, how the product's address does, and the indexes.

A downgrade leaves all events; those that were told stay so.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NEW_TABLES = ("outbox_turn", "outbox_endpoint")
_NEW_INDEXES = {
    "ix_outbox_waiting": (["org", "id"], "state = 'pending'"),
    "ix_outbox_held": (["org", "subject"], "state = 'pending' AND next_attempt_at IS NOT NULL"),
    "ix_outbox_dead": (["org", "id"], "state = 'dead'"),
}


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))


def _seconds(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double(), nullable=False)


def upgrade() -> None:
    op.drop_index("ix_outbox_state_id", "outbox")
    op.create_index("ix_outbox_created", "outbox", ["created_at"])
    for name, (columns, where) in _NEW_INDEXES.items():
        condition = sa.text(where)
        op.create_index(name, "outbox", columns, postgresql_where=condition, sqlite_where=condition)
    op.create_table(
        "outbox_turn",
        *(_text(name) for name in ("org", "owner")),
        _seconds("until"),
        _counter("serial"),
        _seconds("served_at"),
        sa.PrimaryKeyConstraint("org", name="pk_outbox_turn"),
    )
    op.create_table(
        "outbox_endpoint",
        *(_text(name) for name in ("endpoint", "host", "state")),
        _counter("failures"),
        *(_seconds(name) for name in ("rests_until", "probe_until")),
        _text("reason"),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", name="pk_outbox_endpoint"),
    )


def downgrade() -> None:
    for table in _NEW_TABLES:
        op.drop_table(table)
    for name in ("ix_outbox_created", *_NEW_INDEXES):
        op.drop_index(name, "outbox")
    op.create_index("ix_outbox_state_id", "outbox", ["state", "id"])
