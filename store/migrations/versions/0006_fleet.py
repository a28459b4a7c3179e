"""Syncing a fleet: an org's slot (its shard and its moment of the night), when it last drifted, and whose turn it is.

The slot is worked out from the org's name, so a downgrade loses nothing that an upgrade does not bring back, but for
the moments of the last drift, which only say who comes first.
"""

import zlib

import sqlalchemy as sa
from alembic import context, op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_AT_A_TIME = 1000


def _schema() -> str | None:
    """PostgreSQL's schema, for what is not translated like a new table's name: ALTER TABLE."""
    return context.config.attributes["schema"]


def upgrade() -> None:
    for column in (
        sa.Column("slot", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("drifted_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("connection", column, schema=_schema())
    op.create_index("ix_connection_fleet", "connection", ["state", "slot"])
    op.create_table(
        "sync_turn",
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.Column("taken_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("org", name="pk_sync_turn"),
    )
    _fill_slots()


def _fill_slots() -> None:
    here = op.get_bind()
    connection = sa.table(
        "connection", sa.column("org", sa.Text()), sa.column("slot", sa.BigInteger()), schema=_schema()
    )
    orgs = [row.org for row in here.execute(sa.select(connection.c.org))]
    setting = (
        sa.update(connection).where(connection.c.org == sa.bindparam("of")).values(slot=sa.bindparam("place"))
    )
    for start in range(0, len(orgs), _AT_A_TIME):
        some = orgs[start : start + _AT_A_TIME]
        here.execute(setting, [{"of": org, "place": zlib.crc32(org.encode())} for org in some])


def downgrade() -> None:
    op.drop_table("sync_turn")
    op.drop_index("ix_connection_fleet", "connection")
    for name in ("drifted_at", "slot"):
        op.drop_column("connection", name, schema=_schema())
