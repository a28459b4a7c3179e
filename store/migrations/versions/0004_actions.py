"""The journal of actions: what the product asked to be done at Kommo.

A downgrade forgets what was asked for, so that the same key would be done again: let no action be open before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLE = "action"
_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True)


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null)


def _index(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, _TABLE, columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


def upgrade() -> None:
    op.create_table(
        _TABLE,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        *(_text(name) for name in ("action_id", "org", "kind", "idempotency_key", "digest")),
        *(sa.Column(name, _JSON, nullable=False) for name in ("request", "plan")),
        *(_text(name) for name in ("twin", "state")),
        sa.Column("result", _JSON, nullable=True),
        *(_text(name, null=True) for name in ("made", "reason", "reason_code")),
        sa.Column("attempts", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        _text("owner"),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("until", "due_at")),
        *(sa.Column(name, _TIME, nullable=False) for name in ("created_at", "updated_at")),
        sa.Column("sent_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_action"),
    )
    op.create_index("uq_action_action_id", _TABLE, ["action_id"], unique=True)
    op.create_index("uq_action_key", _TABLE, ["org", "idempotency_key"], unique=True)
    _index("uq_action_in_flight", ["org", "twin"], "state = 'sent'", unique=True)
    _index("uq_action_made", ["org", "made"], "made IS NOT NULL", unique=True)
    op.create_index("ix_action_org_id", _TABLE, ["org", "id"])
    op.create_index("ix_action_twin", _TABLE, ["org", "twin", "id"])
    _index("ix_action_open", ["due_at", "id"], "state IN ('intended', 'sent', 'unknown')")
    op.create_index("ix_action_state_id", _TABLE, ["state", "id"])


def downgrade() -> None:
    op.drop_table(_TABLE)
