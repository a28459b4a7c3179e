"""More of each record in columns, how far its kinds have been read, and views for people who ask in SQL.

The rows that webhooks have brought stay: their new columns and digests are made from the JSON that they keep. A
downgrade forgets how far a reading came, and nothing of the records.
"""

# ruff: noqa: S608, ISC004 - the text is ours; the schema's name was checked when the address was read

import hashlib
import json
import re
from datetime import UTC, datetime

import orjson
import sqlalchemy as sa
from alembic import context, op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True)
_ROWS = 500
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_VIEWS = (
    *("record_field_value", "record_link", "record_tag"),
    *("current_leads", "current_contacts", "current_companies", "current_tasks"),
)


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null)


def _time(name: str, *, null: bool = False) -> sa.Column:
    return sa.Column(name, _TIME, nullable=null)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=True)


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))


def _schema() -> str | None:
    return context.config.attributes["schema"]


def _place(name: str) -> str:
    return f'"{_schema()}".{name}' if _schema() else name


def _add_columns() -> None:
    for column in (
        _number("price"),
        _time("closed_at", null=True),
        _text("parent_entity", null=True),
        _number("parent_id"),
        _text("type", null=True),
        _text("key", null=True),
        sa.Column("clean", _JSON, nullable=True),
    ):
        op.add_column("record", column, schema=_schema())


def _record_sync() -> None:
    op.create_table(
        "record_sync",
        *(_text(name) for name in ("org", "entity", "mode", "state")),
        _text("run_id"),
        _time("started_at"),
        _time("finished_at", null=True),
        _time("completed_at", null=True),
        _number("watermark"),
        _number("seen_until"),
        sa.Column("position", _JSON, nullable=True),
        *(_counter(name) for name in ("pages", "records", "requests", "resumed")),
        _text("reason", null=True),
        sa.PrimaryKeyConstraint("org", "entity", name="pk_record_sync"),
    )


def _fill() -> None:
    """Old rows get what new ones have. The code is a copy: it must mean the same for ever."""
    table = sa.table(
        "record",
        *(sa.column(name) for name in ("org", "entity", "record_id", "name", "responsible_user_id")),
        *(sa.column(name) for name in ("status_id", "pipeline_id", "digest", "price", "parent_entity")),
        *(sa.column(name) for name in ("parent_id", "type")),
        *(
            sa.column("raw", _JSON),
            sa.column("clean", _JSON),
            sa.column("closed_at", sa.DateTime(timezone=True)),
        ),
        schema=_schema(),
    )
    key = (table.c.org, table.c.entity, table.c.record_id)
    connection = op.get_bind()
    last: tuple[str, str, int] | None = None
    while True:
        query = sa.select(table).order_by(*key).limit(_ROWS)
        if last is not None:
            query = query.where(sa.tuple_(*key) > sa.tuple_(*(sa.literal(value) for value in last)))
        rows = connection.execute(query).mappings().all()
        for row in rows:
            where = [column == value for column, value in zip(key, _key_of(row), strict=True)]
            connection.execute(table.update().where(*where).values(**_columns(row)))
        if len(rows) < _ROWS:
            return
        last = _key_of(rows[-1])


def _key_of(row: sa.RowMapping) -> tuple[str, str, int]:
    return row["org"], row["entity"], row["record_id"]


def _columns(row: sa.RowMapping) -> dict[str, object]:
    raw = row["raw"] if isinstance(row["raw"], dict) else {}
    closed = _whole(raw.get("closed_at"))
    moment = datetime.fromtimestamp(closed, UTC) if closed and 0 < closed < 253_402_300_799 else None
    if moment is not None and op.get_bind().dialect.name != "postgresql":
        moment = moment.replace(tzinfo=None)
    task = row["entity"] == "tasks"
    kind = raw.get("task_type_id") if task else None
    parent = raw.get("entity_type") if task else None
    columns = {
        "price": _whole(raw.get("price")),
        "closed_at": moment,
        "parent_entity": parent if isinstance(parent, str) else None,
        "parent_id": _whole(raw.get("entity_id")) if task else None,
        "type": None if kind is None else str(kind),
        "clean": _clean(raw)
        if _UNSTORABLE.search(json.dumps(raw, ensure_ascii=False)) or _nul(raw)
        else None,
    }
    if raw:
        name = raw.get("name", raw.get("text"))  # as it came: the column holds it cleaned
        four = {column: row[column] for column in ("responsible_user_id", "status_id", "pipeline_id")}
        four["name"] = name if isinstance(name, str) else None
        columns["digest"] = _digest(four, raw)
    return columns


def _nul(raw: object) -> bool:
    return "\\u0000" in json.dumps(raw)


def _whole(value: object) -> int | None:
    fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return value if fits else None


def _clean(value: object) -> object:
    if isinstance(value, str):
        return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {_clean(key): _clean(inner) for key, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list) else value


def _without_links(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_links(inner) for key, inner in value.items() if key != "_links"}
    return [_without_links(inner) for inner in value] if isinstance(value, list) else value


def _digest(columns: dict[str, object], raw: dict[str, object]) -> str:
    kept = {key: value for key, value in raw.items() if key != "_links"}
    if "_embedded" in kept:
        kept["_embedded"] = _without_links(kept["_embedded"])
    try:
        text = orjson.dumps([columns, kept], option=orjson.OPT_SORT_KEYS)
    except TypeError:
        text = json.dumps([columns, _without_links(raw)], sort_keys=True, separators=(",", ":")).encode(
            "ascii"
        )
    return hashlib.sha256(text).hexdigest()


def _current(table: str, kind: str, alias: str, key: str) -> str:
    return (
        f"LEFT JOIN {_place(table)} {alias} ON {alias}.org = r.org AND {alias}.kind = '{kind}' "
        f"AND {alias}.key = {key} AND {alias}.valid_to IS NULL"
    )


def _as_text(column: str) -> str:
    return f"CAST({column} AS TEXT)"


def _views() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    values, links, tags, task = _in_postgres() if postgres else _in_sqlite()
    user = _current("crm_user", "users", "u", _as_text("r.responsible_user_id"))
    pipeline = _current("pipeline", "pipelines", "p", _as_text("r.pipeline_id"))
    stage_key = f"{_as_text('r.pipeline_id')} || ':' || {_as_text('r.status_id')}"
    stage = _current("pipeline_status", "statuses", "s", stage_key)
    task_type = _current("task_type", "task_types", "k", "r.type")
    record = _place("record")
    common = (
        "r.responsible_user_id, u.name AS responsible_user_name, r.created_at, r.updated_at, "
        "r.read_at, COALESCE(r.clean, r.raw) AS raw"
    )
    present = "r.state = 'present'"
    queries = (
        *(values, links, tags),
        f"SELECT r.org, r.record_id AS lead_id, r.name, r.price, r.pipeline_id, p.name AS pipeline_name, r.status_id, "
        f"s.name AS status_name, r.closed_at, {common} FROM {record} r {pipeline} {stage} {user} "
        f"WHERE r.entity = 'leads' AND {present}",
        f"SELECT r.org, r.record_id AS contact_id, r.name, {common} FROM {record} r {user} "
        f"WHERE r.entity = 'contacts' AND {present}",
        f"SELECT r.org, r.record_id AS company_id, r.name, {common} FROM {record} r {user} "
        f"WHERE r.entity = 'companies' AND {present}",
        f"SELECT r.org, r.record_id AS task_id, r.name AS text, r.type AS task_type_id, k.name AS task_type_name, "
        f"r.parent_entity, r.parent_id, {task}, {common} FROM {record} r {task_type} {user} "
        f"WHERE r.entity = 'tasks' AND {present}",
    )
    for name, query in zip(_VIEWS, queries, strict=True):
        op.execute(f"CREATE VIEW {_place(name)} AS {query}")


def _in_postgres() -> tuple[str, str, str, str]:
    who, doc = "r.org, r.entity, r.record_id", "COALESCE(r.clean, r.raw)"
    records = f"{_place('record')} r"

    def listed(value: str) -> str:
        return f"json_array_elements(CASE json_typeof({value}) WHEN 'array' THEN {value} ELSE '[]'::json END)"

    def number(value: str) -> str:
        return f"CASE WHEN {value} ~ '^-?[0-9]{{1,18}}$' THEN CAST({value} AS BIGINT) END"

    field_id, enum_id = number("(f.item ->> 'field_id')"), number("(v.item ->> 'enum_id')")
    link_id, tag_id = number("(l.item ->> 'id')"), number("(t.item ->> 'id')")
    till = number(f"({doc} ->> 'complete_till')")
    fields, each = listed(f"({doc} -> 'custom_fields_values')"), listed("(f.item -> 'values')")
    inside = f"CASE json_typeof({doc} -> '_embedded') WHEN 'object' THEN {doc} -> '_embedded' ELSE '{{}}'::json END"
    tag_list = listed(f"({inside} -> 'tags')")
    values = (
        f"SELECT {who}, {field_id} AS field_id, f.item ->> 'field_name' AS field_name, "
        f"f.item ->> 'field_code' AS field_code, f.item ->> 'field_type' AS field_type, v.place AS place, "
        f"v.item ->> 'value' AS value, {enum_id} AS enum_id, "
        f"COALESCE(v.item ->> 'enum_code', v.item ->> 'enum') AS enum_code, v.item AS whole "
        f"FROM {records} CROSS JOIN LATERAL {fields} AS f(item) "
        f"CROSS JOIN LATERAL {each} WITH ORDINALITY AS v(item, place) "
        "WHERE r.state = 'present'"
    )
    links = (
        f"SELECT {who}, e.key AS to_entity, {link_id} AS to_id, "
        f"CAST(l.item ->> 'is_main' AS BOOLEAN) AS is_main FROM {records} "
        f"CROSS JOIN LATERAL json_each({inside}) AS e(key, items) CROSS JOIN LATERAL {listed('e.items')} AS l(item) "
        "WHERE r.state = 'present' AND e.key IN ('leads', 'contacts', 'companies', 'customers', 'catalog_elements')"
    )
    tags = (
        f"SELECT {who}, {tag_id} AS tag_id, t.item ->> 'name' AS name FROM {records} "
        f"CROSS JOIN LATERAL {tag_list} AS t(item) WHERE r.state = 'present'"
    )
    task = f"CAST({doc} ->> 'is_completed' AS BOOLEAN) AS is_completed, {till} AS complete_till"
    return values, links, tags, task


def _in_sqlite() -> tuple[str, str, str, str]:
    doc, who = "COALESCE(r.clean, r.raw)", "r.org, r.entity, r.record_id"
    values = (
        f"SELECT {who}, CAST(json_extract(f.value, '$.field_id') AS INTEGER) AS field_id, "
        "json_extract(f.value, '$.field_name') AS field_name, json_extract(f.value, '$.field_code') AS field_code, "
        "json_extract(f.value, '$.field_type') AS field_type, v.key + 1 AS place, "
        # As PostgreSQL says it: SQLite's JSON has 1 and 0 for these.
        "CASE json_type(v.value, '$.value') WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' "
        "ELSE CAST(json_extract(v.value, '$.value') AS TEXT) END AS value, "
        "CAST(json_extract(v.value, '$.enum_id') AS INTEGER) AS enum_id, "
        "COALESCE(json_extract(v.value, '$.enum_code'), json_extract(v.value, '$.enum')) AS enum_code, "
        f"v.value AS whole FROM record r, json_each({doc}, '$.custom_fields_values') f, "
        "json_each(CASE f.type WHEN 'object' THEN f.value ELSE '{}' END, '$.values') v "
        "WHERE r.state = 'present' AND v.type = 'object'"
    )
    links = (
        f"SELECT {who}, e.key AS to_entity, CAST(json_extract(l.value, '$.id') AS INTEGER) AS to_id, "
        "json_extract(l.value, '$.is_main') AS is_main "
        f"FROM record r, json_each({doc}, '$._embedded') e, "
        "json_each(CASE e.type WHEN 'array' THEN e.value ELSE '[]' END) l WHERE r.state = 'present' "
        "AND l.type = 'object' AND e.key IN ('leads', 'contacts', 'companies', 'customers', 'catalog_elements')"
    )
    tags = (
        f"SELECT {who}, CAST(json_extract(t.value, '$.id') AS INTEGER) AS tag_id, "
        f"json_extract(t.value, '$.name') AS name FROM record r, json_each({doc}, '$._embedded.tags') t "
        "WHERE r.state = 'present' AND t.type = 'object'"
    )
    task = (
        f"json_extract({doc}, '$.is_completed') AS is_completed, "
        f"json_extract({doc}, '$.complete_till') AS complete_till"
    )
    return values, links, tags, task


def upgrade() -> None:
    _add_columns()
    _record_sync()
    _fill()
    _views()


def downgrade() -> None:
    for view in reversed(_VIEWS):
        op.execute(f"DROP VIEW {_place(view)}")
    op.drop_table("record_sync")
    for name in ("clean", "key", "type", "parent_id", "parent_entity", "closed_at", "price"):
        op.drop_column("record", name, schema=_schema())
