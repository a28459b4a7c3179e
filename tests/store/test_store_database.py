"""Opening a database, its address, its migrations, and what its columns keep."""

import asyncio
import os
import re
import secrets
import sqlite3
import stat
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, column, inspect, select, table, text
from sqlalchemy.sql.schema import SchemaConst

from store.address import parse_address
from store.connections import list_connections, set_state
from store.database import Database
from store.errors import (
    DatabaseAddressError,
    DatabaseForbiddenError,
    DatabaseUnavailableError,
    SchemaBehindError,
    SchemaUnknownError,
    WriteRefusedError,
)
from store.shards import slot_of
from store.snapshots import read_snapshot
from store.tables import metadata
from tests.store.builders import START, item, minutes, pipeline, run_processes, save

ODD_TEXTS = [
    "nul \x00 in the middle",
    "half \ud83d of a pair",
    "emoji 👩‍👩‍👧 🏳️‍🌈",
    "rtl \u202eשלום مرحبا\u202c",  # noqa: RUF001 - it is meant to be Hebrew
    "четыре 四つ τέσσερα चार",
    "quotes '\" ; drop table pipeline; --",
    "",
    "%s :name {x} $1",
]


async def test_an_empty_database_gets_its_tables_and_all_are_gone_after_a_downgrade(
    empty_place: tuple[str, str],
) -> None:
    async with Database.open(*empty_place) as db:
        assert (await db.state()).name == "empty"
        await db.ensure()
        assert (await db.state()).name == "current"
        await db.downgrade("base")
        assert (await db.state()).name == "empty"
        async with db.read() as connection:
            left = await connection.run_sync(
                lambda sync: inspect(sync).get_table_names(schema=db.address.schema)
            )
        assert left == ["alembic_version"]
        await db.upgrade()
        assert (await db.state()).name == "current"


async def test_the_models_and_the_migrated_schema_do_not_differ(db: Database) -> None:
    schema = db.address.schema
    ours = MetaData(naming_convention=metadata.naming_convention)
    for model in metadata.tables.values():
        model.to_metadata(ours, schema=schema or SchemaConst.RETAIN_SCHEMA)

    def differences(connection: Connection) -> list[object]:
        options = {
            "include_schemas": schema is not None,
            "include_name": lambda name, of, _parents: of != "schema" or name == schema,
            "include_object": lambda _object, name, _of, _reflected, _to: name != "alembic_version",
            "compare_server_default": True,
        }
        context = MigrationContext.configure(
            connection.execution_options(schema_translate_map=None), opts=options
        )
        return list(compare_metadata(context, ours))

    async with db.read() as connection:
        assert await connection.run_sync(differences) == []


def _parts(definition: str) -> set[str]:
    """The parts of a CREATE statement: SQLite writes a column that was added later behind the constraints."""
    head, _, parts = " ".join(definition.split()).rstrip(") ").partition("(")
    return {f"{head.strip()}: {part.strip()}" for part in re.split(r",(?![^(]*\))", parts)}


async def _definitions(db: Database) -> set[str]:
    """Everything that the database says about its tables and indexes, in its own words."""
    async with db.read() as connection:
        if db.dialect == "sqlite":
            found = await connection.execute(
                text("SELECT sql FROM sqlite_master WHERE type != 'view' AND tbl_name != 'alembic_version'")
            )
            return {part for row in found if row.sql for part in _parts(row.sql)}
        indexes = await connection.execute(
            text(
                "SELECT indexdef FROM pg_indexes WHERE schemaname = :schema AND tablename != 'alembic_version'"
            ),
            {"schema": db.address.schema},
        )
        columns = await connection.execute(
            text(
                "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
                " WHERE table_schema = :schema AND table_name != 'alembic_version' AND table_name NOT IN"
                " (SELECT viewname FROM pg_views WHERE schemaname = :schema)"
            ),
            {"schema": db.address.schema},
        )
        return {str(row) for row in (*indexes, *columns)}


async def test_the_migration_writes_word_for_word_what_the_models_would(
    empty_place: tuple[str, str],
) -> None:
    async with Database.open(*empty_place) as db:
        await db.ensure()
        migrated = await _definitions(db)
        await db.downgrade("base")
        async with db.begin() as connection:
            await connection.run_sync(metadata.create_all)
        assert migrated == await _definitions(db)
        assert len(migrated) > 30


async def test_connections_of_the_first_version_come_through_an_upgrade_and_back(
    empty_place: tuple[str, str],
) -> None:
    async with Database.open(*empty_place) as db:
        await db.upgrade("0001")
        later = {
            *("token_fingerprint", "token_serial", "refreshed_at", "refresh_attempts", "next_refresh_at"),
            *("reason_code", "slot", "drifted_at"),
        }
        old = [one for one in metadata.tables["connection"].columns if one.name not in later]
        then = table("connection", *(column(one.name, one.type) for one in old), schema=db.address.schema)
        given: dict[str, Any] = dict.fromkeys((one.name for one in old), "x")
        given |= dict.fromkeys(("account_id", "last_synced_at", "expires_at"))
        given |= {"scopes": ["crm"]} | dict.fromkeys(("created_at", "updated_at", "state_since"), START)
        states = {"a": "connected", "b": "degraded", "c": "failed"}
        async with db.begin() as connection:
            for org, state in states.items():
                await connection.execute(then.insert().values({**given, "org": org, "state": state}))
        await db.upgrade()
        found = (await list_connections(db)).items
        assert {record.org: record.state for record in found} == states
        assert {(one.token_serial, one.refresh_attempts, one.token_fingerprint) for one in found} == {
            (0, 0, None)
        }
        async with db.read() as connection:
            shown = metadata.tables["connection"]
            slots = (await connection.execute(select(shown.c.org, shown.c.slot))).all()
        assert {row.org: row.slot for row in slots} == {org: slot_of(org) for org in states}
        await set_state(db, "a", "refreshing", now=START)
        await set_state(db, "b", "outcome_unknown", now=START)
        await db.downgrade("0001")
        await db.upgrade()
        assert {one.org: one.state for one in (await list_connections(db)).items} == states


@pytest.mark.usefixtures("quick")
async def test_four_processes_that_start_on_an_empty_database_make_its_tables_once(
    empty_place: tuple[str, str],
) -> None:
    await run_processes(*([("ensure", *empty_place)] * 4))
    async with Database.open(*empty_place) as db:
        assert (await db.state()).name == "current"


async def test_a_configured_database_that_is_behind_is_never_migrated_unasked(
    empty_place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Database.open(*empty_place) as db:
        await db.ensure()
        _add_a_revision(monkeypatch)
        assert (await db.state()).name == "behind"
        if db.dialect == "postgresql":
            with pytest.raises(SchemaBehindError, match="kommo db upgrade"):
                await db.ensure()
            await db.upgrade()
        else:
            await db.ensure()
        assert (await db.state()).revision == "9000_test"


def _add_a_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic.config import Config

    from store import migrate

    folder = Path(__file__).parent / "later_revisions"
    original = migrate._config

    def config() -> Config:
        made = original()
        made.set_main_option("path_separator", "os")
        made.set_main_option(
            "version_locations", os.pathsep.join([str(migrate._SCRIPTS / "versions"), str(folder)])
        )
        return made

    monkeypatch.setattr(migrate, "_config", config)
    monkeypatch.setattr(migrate, "newest_revision", lambda: "9000_test")


def test_the_newest_revision_by_name_is_the_one_that_alembic_finds() -> None:
    from alembic.script import ScriptDirectory

    from store import migrate

    assert ScriptDirectory.from_config(migrate._config()).get_current_head() == migrate.newest_revision()


async def test_a_database_of_a_newer_version_is_refused(empty_place: tuple[str, str]) -> None:
    async with Database.open(*empty_place) as db:
        await db.ensure()
        async with db.begin() as connection:
            await connection.execute(
                table("alembic_version", column("version_num"), schema=db.address.schema)
                .update()
                .values(version_num="9999")
            )
        assert (await db.state()).name == "unknown"
        with pytest.raises(SchemaUnknownError, match="newer version"):
            await db.ensure()


async def test_s2_odd_text_survives_whole_in_the_raw_json_and_legibly_in_the_column(db: Database) -> None:
    rows = [pipeline(number, odd) for number, odd in enumerate(ODD_TEXTS)]
    rows += [
        item(
            "pipelines",
            raw={odd: [odd, {odd: None}]},
            pipeline_id=100 + number,
            name="plain",
            sort=100 + number,
        )
        for number, odd in enumerate(ODD_TEXTS)
    ]
    await save(db, 0, {"pipelines": rows})
    _, again = await save(db, 1, {"pipelines": rows})
    assert (again["pipelines"].added, again["pipelines"].changed) == (0, 0)
    items = (await read_snapshot(db, "acme", "pipelines", nested=False, raw=True)).items
    for odd, in_the_column, in_the_raw in zip(ODD_TEXTS, items, items[len(ODD_TEXTS) :], strict=False):
        assert in_the_column["name"] == odd.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")
        assert in_the_column["raw"]["name"] == odd
        assert in_the_raw["raw"][odd] == [odd, {odd: None}]


async def test_times_go_in_and_come_out_aware_in_utc_with_microseconds(db: Database) -> None:
    moment = START.replace(microsecond=123456)
    await save(db, (moment - START).total_seconds() / 60, {"pipelines": [pipeline(1)]})
    view = await read_snapshot(db, "acme", "pipelines")
    assert view.taken_at == moment
    assert view.taken_at.utcoffset() is not None
    assert view.taken_at.utcoffset() == START.utcoffset()


async def test_a_naive_time_is_refused(db: Database) -> None:
    await save(db, 0, {"pipelines": [pipeline(1)]})
    with pytest.raises(ValueError, match="without a time zone"):
        await read_snapshot(db, "acme", "pipelines", at=minutes(1).replace(tzinfo=None))


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgres://u:p@host/db", "postgresql+asyncpg"),
        ("postgresql://u:p@host/db?sslmode=require", "postgresql+asyncpg"),
        ("postgresql+asyncpg://u:p@host/db?pgbouncer=true", "postgresql+asyncpg"),
        ("sqlite:////tmp/x.db", "sqlite+aiosqlite"),
        (" sqlite+aiosqlite:///x.db\n", "sqlite+aiosqlite"),
    ],
)
def test_urls_as_people_paste_them_are_understood(url: str, driver: str) -> None:
    assert parse_address(url).url.drivername == driver


def _all_that_is_said(error: BaseException | None) -> str:
    """The messages of an error and of all errors that a traceback would show with it."""
    said = ""
    while error is not None:
        said += f"{error} {error!r} {error.args}\n"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return said


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://u:hunter2@host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "postgresql://u:hunter2@host/db?channel_binding=require",
        "postgresql://u:hunter2@host:port/db",
        "postgresql+psycopg2://u:hunter2@host/db",
    ],
)
def test_an_unusable_url_is_refused_with_a_sentence_and_without_its_password(url: str) -> None:
    with pytest.raises(DatabaseAddressError) as caught:
        parse_address(url)
    assert str(caught.value).endswith((".", "…"))
    assert "hunter2" not in _all_that_is_said(caught.value)


@pytest.mark.parametrize("schema", ["", "a-b", 'x"; drop schema public; --', "Upper", "1st", "a" * 64])
def test_a_schema_name_that_would_need_quoting_is_refused(schema: str) -> None:
    with pytest.raises(DatabaseAddressError, match="schema's name"):
        parse_address("postgresql://host/db", schema)


async def test_t5_the_password_is_in_no_repr_and_no_error() -> None:
    async with Database.open("postgresql://someone:hunter2@127.0.0.1:1/nowhere") as db:
        assert "hunter2" not in f"{db!r} {db.address!r} {db.engine!r}"
        with pytest.raises(DatabaseUnavailableError, match=r"127\.0\.0\.1/nowhere does not answer") as caught:
            await db.ensure()
        assert "hunter2" not in _all_that_is_said(caught.value)
        assert caught.value.retryable


async def test_a_missing_database_is_named_as_something_for_its_keeper(
    empty_place: tuple[str, str],
) -> None:
    url, schema = empty_place
    if url.startswith("sqlite"):
        pytest.skip("there is nothing to be missing")
    async with Database.open(url.rpartition("/")[0] + "/no_such_database", schema) as db:
        with pytest.raises(DatabaseForbiddenError, match="refuses this user"):
            await db.ensure()


async def test_only_a_durable_transaction_waits_for_the_disk(db: Database) -> None:
    """On PostgreSQL only where somebody told the server not to wait; on SQLite we did, for everything else."""
    asking = {"sqlite": "PRAGMA synchronous", "postgresql": "SHOW synchronous_commit"}[db.dialect]
    fast, safe = {"sqlite": (1, 2), "postgresql": ("off", "on")}[db.dialect]
    found = []
    if db.dialect == "postgresql":
        async with db.begin() as connection:
            await connection.execute(text("SET synchronous_commit TO off"))
    for durable in (False, True, True, False):
        async with db.begin(durable=durable) as connection:
            found.append((await connection.execute(text(asking))).scalar())
    assert found == [fast, safe, safe, fast]


async def test_the_writers_own_connections_are_durable_untold_and_replaced_when_they_break(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if db.dialect == "sqlite":
        pytest.skip("there it is a pragma, and nothing breaks")
    monkeypatch.setattr("store.engine._REST_SECONDS", 0.0)
    async with db.for_another_loop() as writer:
        seen = []
        for _ in range(2):
            async with writer.begin(durable=True) as connection:
                found = await connection.execute(
                    text("SELECT pg_backend_pid(), current_setting('synchronous_commit')")
                )
                seen.append(found.one())
            async with db.begin() as connection:
                await connection.execute(text(f"SELECT pg_terminate_backend({seen[-1][0]})"))
            await asyncio.sleep(0.05)
    assert [row[1] for row in seen] == ["on", "on"]
    assert seen[0][0] != seen[1][0]


async def test_the_callers_own_errors_pass_through_a_transaction_unchanged_and_roll_it_back(
    db: Database,
) -> None:
    await save(db, 0, {"pipelines": [pipeline(1, "kept")]})

    async def fail() -> None:
        async with db.begin() as connection:
            await connection.execute(metadata.tables["pipeline"].delete())
            raise ConnectionRefusedError("my own")

    with pytest.raises(ConnectionRefusedError, match="my own"):
        await fail()
    assert (await read_snapshot(db, "acme", "pipelines")).items[0]["name"] == "kept"


async def test_an_exception_of_the_database_does_not_carry_customers_data(db: Database) -> None:
    async def fail() -> None:
        async with db.begin() as connection:
            await connection.execute(
                metadata.tables["pipeline"].insert().values(org="secret customer", raw={})
            )

    with pytest.raises(WriteRefusedError, match="fault of this program") as caught:
        await fail()
    assert "secret customer" not in _all_that_is_said(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        # Found by the driver, before anything is sent; and by the server, for whom it is too long for an index.
        {"org": "acme", "account_id": 123456789 * 2**70, "key_hash": "a"},
        {"org": "secret customer" + secrets.token_hex(9000), "account_id": 1, "key_hash": "b"},
    ],
    ids=["driver", "server"],
)
async def test_w3_a_row_that_is_too_much_for_postgresql_is_refused_like_any_other_and_not_shown(
    db: Database, values: dict[str, Any]
) -> None:
    if db.dialect == "sqlite":
        pytest.skip("it takes both")

    async def fail() -> None:
        async with db.begin() as connection:
            await connection.execute(
                metadata.tables["webhook_key"].insert().values(created_at=START, **values)
            )

    with pytest.raises(WriteRefusedError, match="fault of this program") as caught:
        await fail()
    said = _all_that_is_said(caught.value)
    assert "secret customer" not in said
    assert str(123456789 * 2**70) not in said


async def test_sqlites_files_are_for_their_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "data" / "deeper" / "store.db"
    async with Database.open(f"sqlite:///{file}") as db:
        await db.ensure()
        await save(db, 0, {"pipelines": [pipeline(1)]})
        async with db.read() as connection:
            await connection.execute(text("SELECT 1 FROM pipeline"))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert modes == dict.fromkeys(("store.db", "store.db-shm", "store.db-wal"), 0o600)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, " * 100)
    with pytest.raises(DatabaseAddressError, match="not an SQLite database"):
        async with Database.open(f"sqlite:///{file}"):
            pass
    assert file.read_text().startswith("not a database")
    with pytest.raises(DatabaseForbiddenError, match="cannot be made or written"):
        async with Database.open(f"sqlite:///{file}/below.db"):
            pass


async def test_sqlite_is_in_wal_mode_with_foreign_keys(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    async with Database.open(f"sqlite:///{file}") as db, db.read() as connection:
        pragmas = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("foreign_keys", "synchronous", "busy_timeout")
        ]
    assert pragmas == [1, 1, 30000]
    connected = sqlite3.connect(file)
    assert connected.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connected.close()


async def test_on_postgresql_everything_is_in_the_schema_and_works_without_prepared_statements(
    empty_place: tuple[str, str],
) -> None:
    url, schema = empty_place
    if url.startswith("sqlite"):
        pytest.skip("PostgreSQL only")
    async with Database.open(f"{url}?pgbouncer=true", schema) as db:
        await db.ensure()
        await save(db, 0, {"pipelines": [pipeline(1)]})
        assert (await read_snapshot(db, "acme", "funnels")).items
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    elsewhere = await connection.fetch(
        "SELECT schemaname FROM pg_tables WHERE tablename = 'pipeline_status' AND schemaname IN ('public', $1)",
        schema,
    )
    await connection.close()
    assert [row["schemaname"] for row in elsewhere] == [schema]
