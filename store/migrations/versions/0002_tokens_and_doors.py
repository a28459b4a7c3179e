"""The chain of token pairs, consents, keys, the outbox, the audit, and the product's view `crm_connections`.

A downgrade removes the journal, and with it every pair that has not reached its block yet: let running refreshes
end first.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True)
_NEW_TABLES = ("token_journal", "refresh_claim", "oauth_state", "outbox", "connection_audit", "api_key")
_NEW_COLUMNS = (
    "token_fingerprint",
    "token_serial",
    "refreshed_at",
    "refresh_attempts",
    "next_refresh_at",
    "reason_code",
)


def _schema() -> str | None:
    """PostgreSQL's schema, for what is not translated like a new table's name: ALTER TABLE, and text."""
    return context.config.attributes["schema"]


def _place(name: str) -> str:
    return f'"{_schema()}".{name}' if _schema() else name


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null)


def _time(name: str, *, null: bool = False) -> sa.Column:
    return sa.Column(name, _TIME, nullable=null)


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def _columns_of_connection() -> None:
    for column in (
        _text("token_fingerprint", null=True),
        _counter("token_serial"),
        _time("refreshed_at", null=True),
        _counter("refresh_attempts"),
        _time("next_refresh_at", null=True),
        _text("reason_code", null=True),
    ):
        op.add_column("connection", column, schema=_schema())
    op.create_index("ix_connection_due", "connection", ["token_kind", "state", "next_refresh_at"])


def _tokens() -> None:
    op.create_table(
        "token_journal",
        _id(),
        *(_text(name) for name in ("org", "used", "fingerprint", "sealed", "host")),
        sa.Column("account_id", sa.BigInteger(), nullable=True),
        _time("expires_at", null=True),
        _time("created_at"),
        _time("promoted_at", null=True),
        _time("dead_at", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_token_journal"),
    )
    op.create_index("uq_token_journal_org_fingerprint", "token_journal", ["org", "fingerprint"], unique=True)
    op.create_index("ix_token_journal_org_used", "token_journal", ["org", "used"])
    waiting = sa.text("promoted_at IS NULL AND dead_at IS NULL")
    op.create_index(
        "ix_token_journal_waiting", "token_journal", ["org"], postgresql_where=waiting, sqlite_where=waiting
    )
    op.create_table(
        "refresh_claim",
        *(_text(name) for name in ("org", "owner")),
        sa.Column("until", sa.Double(), nullable=False),
        _counter("serial"),
        _text("step"),
        _text("used", null=True),
        _time("changed_at"),
        sa.PrimaryKeyConstraint("org", name="pk_refresh_claim"),
    )


def _doors() -> None:
    op.create_table(
        "oauth_state",
        *(_text(name) for name in ("state_hash", "org", "provider", "redirect_uri")),
        _text("base_domain", null=True),
        _text("mode"),
        _text("browser_hash", null=True),
        _text("return_to", null=True),
        _time("created_at"),
        _time("expires_at"),
        _time("used_at", null=True),
        sa.PrimaryKeyConstraint("state_hash", name="pk_oauth_state"),
    )
    op.create_index("ix_oauth_state_expires_at", "oauth_state", ["expires_at"])
    op.create_table(
        "api_key",
        *(_text(name) for name in ("key_id", "name", "hash")),
        sa.Column("orgs", _JSON, nullable=True),
        _time("created_at"),
        _time("revoked_at", null=True),
        _time("last_used_at", null=True),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_key"),
    )
    op.create_index("uq_api_key_hash", "api_key", ["hash"], unique=True)


def _outbox() -> None:
    op.create_table(
        "outbox",
        _id(),
        *(_text(name) for name in ("event_id", "type", "org", "subject")),
        sa.Column("payload", _JSON, nullable=False),
        _time("created_at"),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'pending'")),
        _counter("attempts"),
        _time("next_attempt_at", null=True),
        _time("delivered_at", null=True),
        _text("last_error", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("uq_outbox_event_id", "outbox", ["event_id"], unique=True)
    op.create_index("ix_outbox_state_id", "outbox", ["state", "id"])
    op.create_index("ix_outbox_org_id", "outbox", ["org", "id"])
    op.create_table(
        "connection_audit",
        _id(),
        *(_text(name) for name in ("org", "event")),
        sa.Column("detail", _JSON, nullable=False),
        _time("at"),
        sa.PrimaryKeyConstraint("id", name="pk_connection_audit"),
    )
    op.create_index("ix_connection_audit_org_id", "connection_audit", ["org", "id"])


def _view() -> None:
    # The product's words (product-contract.md), and its one row per org and provider; no secrets. A scope list
    # is written as OAuth writes it: words with spaces between them.
    if op.get_bind().dialect.name == "postgresql":
        scope = "(SELECT string_agg(word, ' ') FROM json_array_elements_text(c.scopes) AS words (word))"
    else:
        scope = "(SELECT group_concat(value, ' ') FROM json_each(c.scopes))"
    op.execute(  # the schema's name was checked when the address was read
        f"CREATE VIEW {_place('crm_connections')} AS "  # noqa: S608 - see above
        "SELECT c.org AS org_id, c.provider AS provider, c.host AS base_domain, "
        "c.account_id AS account_id, c.account_name AS account_name, "
        f"c.expires_at AS expires_at, {scope} AS scope, "
        "c.state AS status, c.state_since AS status_since, c.reason AS reason, c.reason_code AS reason_code, "
        "c.last_synced_at AS last_synced_at, c.created_at AS created_at, c.updated_at AS updated_at "
        f"FROM {_place('connection')} AS c"
    )


def upgrade() -> None:
    _columns_of_connection()
    _tokens()
    _doors()
    _outbox()
    _view()


def downgrade() -> None:
    op.execute(f"DROP VIEW {_place('crm_connections')}")
    for table in _NEW_TABLES:
        op.drop_table(table)
    op.drop_index("ix_connection_due", "connection")
    for column in _NEW_COLUMNS:
        op.drop_column("connection", column, schema=_schema())
    # States that 0001 does not know, as it would have called them.
    connection = sa.table("connection", sa.column("state"), schema=_schema())
    for state, older in (("refreshing", "connected"), ("outcome_unknown", "degraded")):
        op.execute(connection.update().where(connection.c.state == state).values(state=older))
