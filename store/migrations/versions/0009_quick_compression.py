"""On PostgreSQL the JSON of records is compressed by lz4: half the time of an insertion was spent in its older way.

What is there stays as it is until it is written again. A server that was built without lz4, or is older than version
14, goes on as before.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_CAN = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"


def _compress(how: str) -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql" or not connection.execute(sa.text(_CAN)).scalar():
        return
    schema = context.config.attributes["schema"]
    table = op.get_context().impl.dialect.identifier_preparer.format_table(sa.table("record", schema=schema))
    for column in ("raw", "clean"):
        op.execute(sa.text(f"ALTER TABLE {table} ALTER COLUMN {column} SET COMPRESSION {how}"))


def upgrade() -> None:
    _compress("lz4")


def downgrade() -> None:
    _compress("default")
