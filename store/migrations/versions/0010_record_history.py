"""What records were before: kept for the kinds where somebody asked for it, and a view of it beside what they are.

Beside it an index of the deliveries that came for an account that nobody was connected to: who erases or exports an org
looks for them by the account. A downgrade forgets what was kept.
"""

# ruff: noqa: S608 - the text is ours; the schema's name was checked when the address was read

import sqlalchemy as sa
from alembic import context, op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True)


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null)


def _time(name: str, *, null: bool = False) -> sa.Column:
    return sa.Column(name, _TIME, nullable=null)


def _number(name: str, *, null: bool = True) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _schema() -> str | None:
    return context.config.attributes["schema"]


def _place(name: str) -> str:
    return f'"{_schema()}".{name}' if _schema() else name


def _view() -> None:
    told = (
        "org, entity, record_id, {number} AS number, {until} AS known_until, state, name, responsible_user_id, "
        "pipeline_id, status_id, price, updated_at, COALESCE(clean, raw) AS raw"
    )
    before = told.format(number="id", until="known_until")
    now = told.format(number="9223372036854775807", until="NULL")
    op.execute(
        f"CREATE VIEW {_place('record_timeline')} AS SELECT org, entity, record_id, LAG(known_until) OVER "
        "(PARTITION BY org, entity, record_id ORDER BY number) AS known_from, known_until, state, name, "
        "responsible_user_id, pipeline_id, status_id, price, updated_at, raw "
        f"FROM (SELECT {before} FROM {_place('record_version')} UNION ALL SELECT {now} FROM {_place('record')}) AS told"
    )


def upgrade() -> None:
    op.create_table(
        "record_history",
        *(_text(name) for name in ("org", "entity")),
        _time("since"),
        sa.PrimaryKeyConstraint("org", "entity", name="pk_record_history"),
    )
    op.create_table(
        "record_version",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        *(_text(name) for name in ("org", "entity")),
        _number("record_id", null=False),
        _text("name", null=True),
        *(_number(name) for name in ("responsible_user_id", "status_id", "pipeline_id", "price")),
        _time("updated_at", null=True),
        sa.Column("raw", _JSON, nullable=False),
        sa.Column("clean", _JSON, nullable=True),
        _text("state"),
        *(_time(name) for name in ("state_since", "read_at")),
        _text("source"),
        _time("known_until"),
        sa.PrimaryKeyConstraint("id", name="pk_record_version"),
    )
    op.create_index("ix_record_version_record", "record_version", ["org", "entity", "record_id", "id"])
    _view()
    nobodys = sa.text("org = ''")
    op.create_index(
        "ix_webhook_delivery_nobodys",
        "webhook_delivery",
        ["account_id"],
        postgresql_where=nobodys,
        sqlite_where=nobodys,
    )


def downgrade() -> None:
    op.drop_index("ix_webhook_delivery_nobodys", "webhook_delivery")
    op.execute(f"DROP VIEW {_place('record_timeline')}")
    op.drop_index("ix_record_version_record", "record_version")
    op.drop_table("record_version")
    op.drop_table("record_history")
