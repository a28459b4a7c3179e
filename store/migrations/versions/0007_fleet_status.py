"""Alarms of the whole installation; the reference by which a request is followed from its delivery to the product.

A downgrade leaves all rows; what is lost are the references, and which alarm was told last.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_WITH_REFERENCE = ("webhook_delivery", "webhook_event", "outbox")


def _schema() -> str | None:
    """PostgreSQL's schema, for ALTER TABLE, where it is not put in by itself."""
    return context.config.attributes["schema"]


def upgrade() -> None:
    for table in _WITH_REFERENCE:
        op.add_column(table, sa.Column("reference", sa.Text(), nullable=True), schema=_schema())
    op.create_table(
        "fleet_alarm",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("name", "state")),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))
            for name in ("serial", "told")
        ),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("figures", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_fleet_alarm"),
    )


def downgrade() -> None:
    op.drop_table("fleet_alarm")
    for table in _WITH_REFERENCE:
        op.drop_column(table, "reference", schema=_schema())
