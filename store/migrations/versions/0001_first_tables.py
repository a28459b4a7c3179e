"""The first tables: the versioned set-up of accounts, runs and snapshots, connections, the request budget.

Written out and not taken from the models: a migration must go on meaning what it meant when it was released.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True)


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null)


def _number(name: str, *, null: bool = True) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=True)


def _versions(table: str, *columns: sa.Column) -> None:
    op.create_table(
        table,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        _text("org"),
        _text("kind"),
        _text("key"),
        _text("digest"),
        sa.Column("valid_from", _TIME, nullable=False),
        sa.Column("valid_to", _TIME, nullable=True),
        _text("run_id"),
        _text("closed_run_id", null=True),
        sa.Column("raw", _JSON, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
    )
    current, ended = sa.text("valid_to IS NULL"), sa.text("valid_to IS NOT NULL")
    op.create_index(
        f"uq_{table}_current",
        table,
        ["org", "kind", "key"],
        unique=True,
        postgresql_where=current,
        sqlite_where=current,
    )
    op.create_index(f"ix_{table}_began", table, ["org", "kind", "valid_from"])
    op.create_index(
        f"ix_{table}_ended", table, ["org", "kind", "valid_to"], postgresql_where=ended, sqlite_where=ended
    )


def _crm() -> None:
    _versions(
        "account",
        _number("account_id", null=False),
        *(_text(name, null=True) for name in ("name", "subdomain", "country", "currency", "timezone")),
        _text("customers_mode", null=True),
        _flag("is_unsorted_on"),
        _flag("is_loss_reason_enabled"),
        _text("amojo_id", null=True),
    )
    _versions(
        "pipeline",
        _number("pipeline_id", null=False),
        _text("name", null=True),
        _number("sort"),
        *(_flag(name) for name in ("is_main", "is_archive", "is_unsorted_on")),
    )
    _versions(
        "pipeline_status",
        _number("pipeline_id", null=False),
        _number("status_id", null=False),
        _text("name", null=True),
        _number("sort"),
        _text("color", null=True),
        _number("type"),
        _flag("is_editable"),
    )
    _versions(
        "channel",
        _text("channel_id"),
        *(_text(name, null=True) for name in ("name", "type", "origin")),
        _number("source_id"),
        _text("external_id", null=True),
        _number("pipeline_id"),
        _number("account_id"),
        _text("found_in", null=True),
    )
    flags = ("is_api_only", "is_deletable", "is_predefined", "is_system", "is_computed", "is_required")
    _versions(
        "custom_field",
        _text("entity_type"),
        _number("field_id", null=False),
        *(_text(name, null=True) for name in ("name", "type", "code")),
        _number("sort"),
        _text("group_id", null=True),
        *(_flag(name) for name in flags),
    )
    _versions(
        "custom_field_enum",
        _text("entity_type"),
        _number("field_id", null=False),
        _number("enum_id", null=False),
        _text("value", null=True),
        _text("code", null=True),
        _number("sort"),
    )
    _versions(
        "crm_user",
        _number("user_id", null=False),
        *(_text(name, null=True) for name in ("name", "email", "lang")),
        *(_flag(name) for name in ("is_admin", "is_active", "is_free")),
        _number("role_id"),
        _number("group_id"),
    )
    _versions(
        "task_type",
        _number("task_type_id", null=False),
        *(_text(name, null=True) for name in ("name", "code", "color")),
        _number("icon_id"),
    )
    _versions("loss_reason", _number("loss_reason_id", null=False), _text("name", null=True), _number("sort"))


def _runs() -> None:
    op.create_table(
        "sync_run",
        *(_text(name) for name in ("run_id", "org", "scope")),
        _text("flow_run_id", null=True),
        _text("state"),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME, nullable=True),
        _number("requests", null=False),
        _text("reason", null=True),
        sa.PrimaryKeyConstraint("run_id", name="pk_sync_run"),
    )
    op.create_index("ix_sync_run_org_started", "sync_run", ["org", "started_at"])
    op.create_table(
        "snapshot",
        *(_text(name) for name in ("run_id", "kind", "org", "state")),
        sa.Column("taken_at", _TIME, nullable=False),
        sa.Column("read_started_at", _TIME, nullable=True),
        *(_number(name, null=False) for name in ("items", "added", "changed", "removed")),
        _text("reason", null=True),
        sa.PrimaryKeyConstraint("run_id", "kind", name="pk_snapshot"),
        sa.ForeignKeyConstraint(["run_id"], ["sync_run.run_id"], name="fk_snapshot_run_id"),
    )
    op.create_index("ix_snapshot_org_kind_taken", "snapshot", ["org", "kind", "taken_at"])
    op.create_table(
        "snapshot_head",
        _text("org"),
        _text("kind"),
        sa.Column("taken_at", _TIME, nullable=True),
        sa.Column("read_started_at", _TIME, nullable=True),
        _text("run_id", null=True),
        sa.PrimaryKeyConstraint("org", "kind", name="pk_snapshot_head"),
    )


def upgrade() -> None:
    _crm()
    _runs()
    op.create_table(
        "connection",
        *(_text(name) for name in ("org", "provider", "block_name", "host")),
        _number("account_id"),
        _text("account_name", null=True),
        _text("subdomain", null=True),
        _text("token_kind"),
        sa.Column("expires_at", _TIME, nullable=True),
        sa.Column("scopes", _JSON, nullable=False),
        _text("state"),
        _text("reason", null=True),
        sa.Column("state_since", _TIME, nullable=False),
        _text("last_sync_run_id", null=True),
        sa.Column("last_synced_at", _TIME, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("org", name="pk_connection"),
    )
    op.create_index("ix_connection_state_org", "connection", ["state", "org"])
    op.create_index("ix_connection_account", "connection", ["account_id"])
    op.create_table(
        "rate_budget",
        _text("key"),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.Column("recent", _JSON, nullable=False),
        sa.Column("blocked_until", sa.Double(), nullable=False),
        _text("blocked_reason", null=True),
        sa.PrimaryKeyConstraint("key", name="pk_rate_budget"),
    )


def downgrade() -> None:
    # In the order of the foreign keys.
    for table in ("rate_budget", "connection", "snapshot_head", "snapshot", "sync_run"):
        op.drop_table(table)
    for table in ("loss_reason", "task_type", "crm_user", "custom_field_enum", "custom_field"):
        op.drop_table(table)
    for table in ("channel", "pipeline_status", "pipeline", "account"):
        op.drop_table(table)
