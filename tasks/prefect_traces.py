"""What Prefect's server remembers of one org: runs, their logs and states, artifacts, events.

Its API can delete runs (with their task runs, states and logs) and artifacts. It can delete no event and no single line
of a log that belongs to a run of many orgs; those end by Prefect's own retention (events after seven days by default),
or at once where this may reach into Prefect's database.

An org may be called `1`, or like a word that Prefect says itself. So what more than one org needs (runs, blocks) goes
only if it says in its place for it that it is this org's; a word found somewhere takes along only what is told: logs,
events, artifacts. Numbers name nobody.
"""

import json
import re
import warnings
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling
from pydantic import BaseModel
from sqlalchemy import MetaData, String, Table, cast, delete, or_, select, update
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from blocks.names import block_name

PAGE = 200
"""Prefect's server gives at most so many at once."""

_UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.PAUSED, StateType.CANCELLING]

_ENDED = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_ARTIFACT = ("key", "data", "description", "metadata_")

# Rows of these go when one of the columns names the org. Other columns hold Prefect's own words.
_REMOVED: Mapping[str, tuple[str, ...]] = {
    "automation_bucket": ("bucketing_key", "last_event"),
    "automation_held_event": ("bucketing_key",),
    "automation_event_follower": ("scope", "follower"),
    "composite_trigger_child_firing": ("child_firing",),
    "event_resources": ("resource_id", "resource"),
    "events": ("resource_id", "resource", "related_resource_ids", "related", "payload"),
    "log": ("message",),
    "artifact_collection": _ARTIFACT,
    "artifact": _ARTIFACT,
    "flow_run_input": ("key", "value"),
}
# These stay, without what they say: they may be of runs for many orgs. Column → what it holds from then on.
_REDACTED: Mapping[str, Mapping[str, str | None]] = {
    "task_run": {"name": "erased"},
    "task_run_state": {"message": "erased", "data": None},
    "flow_run_state": {"message": "erased", "data": None},
}
# Looked at only, for what is left.
_LOOKED_AT: Mapping[str, tuple[str, ...]] = {
    "flow_run": ("name", "parameters", "tags", "context", "labels", "idempotency_key"),
    "block_document": ("name",),
}
_NEVER_OURS = frozenset({"alembic_version", "block_schema", "block_type", "csrf_token", "agent", "worker"})


class Traces(BaseModel):
    """What was removed of an org at Prefect."""

    runs: int = 0
    artifacts: int = 0
    rows: dict[str, int] | None = None
    """By table of Prefect's database; None when that could not be reached into."""
    left: dict[str, int] = {}
    """What names the org and is not ours to remove, such as a deployment somebody made for it."""


def naming(names: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds any of these names as a whole: `acme` not in `acme-two`, nor `12` in `123`."""
    words = "|".join(re.escape(name) for name in sorted(set(names), key=len, reverse=True))
    return re.compile(rf"(?<![\w-])(?:{words})(?![\w-])")


def _concerns(parameters: Mapping[str, Any], org: str) -> bool:
    """Whether a run is of this org alone. Names and tags do not say: an org may be called like a flow, or `1`."""
    return parameters.get("org", parameters.get("orgs")) in (org, [org])


def _names_among_others(parameters: Mapping[str, Any], org: str) -> bool:
    """Whether a run was for some orgs of which this is one."""
    named = parameters.get("orgs")
    return isinstance(named, list) and org in named


def _says(value: object, pattern: re.Pattern[str]) -> bool:
    """Whether a text of this value names the org; JSON within a text is looked into, numbers are left alone."""
    if isinstance(value, str):
        if value[:1] in ("{", "[", '"'):
            try:
                return _says(json.loads(value), pattern)
            except (ValueError, RecursionError):
                pass
        return pattern.search(value) is not None
    if isinstance(value, Mapping):
        return any(_says(one, pattern) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple):
        return any(_says(one, pattern) for one in value)
    return False


async def _pages(client: PrefectClient, only: FlowRunFilter | None = None) -> AsyncIterator[list[FlowRun]]:
    offset = 0
    while page := await client.read_flow_runs(
        flow_run_filter=only, limit=PAGE, offset=offset, sort=FlowRunSort.EXPECTED_START_TIME_ASC
    ):
        yield page
        offset += len(page)


async def cancel_runs(org: str) -> list[UUID]:
    """Ask every run of this org that is under way to end, and give their ids; a run for many orgs goes on."""
    only = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY)))
    found: list[UUID] = []
    async with get_client() as client:
        async for page in _pages(client, only):
            found += [run.id for run in page if _concerns(run.parameters, org)]
        for run_id in found:
            await client.set_flow_run_state(run_id, Cancelling(), force=True)
    return found


async def runs_under_way(ids: Iterable[UUID]) -> int:
    """How many of these runs have not ended."""
    count = 0
    async with get_client() as client:
        for run_id in ids:
            try:
                run = await client.read_flow_run(run_id)
            except ObjectNotFound:
                continue
            count += not (run.state and run.state.is_final())
    return count


async def remove_runs_and_artifacts(org: str, pattern: re.Pattern[str]) -> Traces:
    """Remove the runs of this org alone, with their logs, and every artifact that names it."""
    traces = Traces()
    async with get_client() as client:
        # Found first and removed then: pages would shift while they are read.
        runs = [run.id async for page in _pages(client) for run in page if _concerns(run.parameters, org)]
        artifacts = [
            UUID(one["id"])
            async for one in _artifacts(client)
            if any(_says(one.get(name), pattern) for name in _ARTIFACT)
        ]
        for artifact in artifacts:
            try:
                await client.delete_artifact(artifact)
                traces.artifacts += 1
            except ObjectNotFound:  # removed meanwhile
                continue
        for run_id in runs:
            try:
                await client.delete_flow_run(run_id)
                traces.runs += 1
            except ObjectNotFound:  # its parent's removal took it along, or somebody else's
                continue
    return traces


async def _artifacts(client: PrefectClient) -> AsyncIterator[Mapping[str, Any]]:
    offset = 0
    while page := await client.read_artifacts(limit=PAGE, offset=offset):
        for artifact in page:
            yield artifact.model_dump(mode="json")
        offset += len(page)


async def scrub_database(url: str, org: str, names: Iterable[str]) -> Traces:
    """Remove from Prefect's own database what names the org: events, lines of logs, states' messages, its runs.

    Args:
        url: SQLAlchemy URL with an async driver, as in `PREFECT_SERVER_DATABASE_CONNECTION_URL`.
        org: the product's tenant.
        names: the names by which it is known.

    Returns:
        What was removed, and what names the org and is left.
    """
    removed: dict[str, int] = {}
    left: dict[str, int] = {}
    engine = create_async_engine(url)
    try:
        metadata = MetaData()
        async with engine.connect() as connection:
            with warnings.catch_warnings():
                # Of indexes on expressions, which are of no concern here.
                warnings.simplefilter("ignore", SAWarning)
                await connection.run_sync(metadata.reflect)
        narrow = sorted(set(names))  # the database narrows by them what the pattern then decides on
        pattern = naming(narrow)
        for name in (*_REMOVED, *_REDACTED, "flow_run", "block_document"):
            if (table := metadata.tables.get(name)) is None:
                continue
            async with engine.begin() as connection:
                if name == "flow_run":
                    ids = await _runs_of(connection, table, org)
                    await _remove_runs(connection, metadata, ids)
                elif name == "block_document":
                    ids = await _block_of(connection, table, org)
                    await _delete(connection, table, "id", ids)
                elif name in _REDACTED:
                    ids = await _redact(connection, table, pattern, narrow)
                else:
                    ids = await _naming_rows(connection, table, pattern, narrow)
                    if name == "events":
                        await _delete(connection, metadata.tables["event_resources"], "event_id", ids)
                    await _delete(connection, table, "id", ids)
            removed[name] = len(ids)
        async with engine.connect() as connection:
            for table in metadata.tables.values():
                if table.name not in _NEVER_OURS:
                    left[table.name] = len(await _naming_rows(connection, table, pattern, narrow))
    finally:
        await engine.dispose()
    return Traces(
        rows={name: count for name, count in removed.items() if count},
        left={name: count for name, count in left.items() if count},
    )


async def _naming_rows(
    connection: AsyncConnection,
    table: Table,
    pattern: re.Pattern[str],
    names: list[str],
    only: str | None = None,
) -> list[Any]:
    """Ids of the rows that name the org, in `only` this column or in any that is looked at."""
    known = _REMOVED.get(table.name) or _REDACTED.get(table.name) or _LOOKED_AT.get(table.name)
    texts = [
        column
        for column in table.columns
        if (column.name in known if known else column.name != "id" and not _is_plain(column.type))
        and only in (None, column.name)
    ]
    if not texts or "id" not in table.c:
        return []
    matches = [
        cast(column, String).like(f"%{_escaped(name)}%", escape="\\") for column in texts for name in names
    ]
    rows = await connection.stream(
        select(table.c.id, *(cast(column, String) for column in texts)).where(or_(*matches))
    )
    return [row[0] async for row in rows if any(_says(text, pattern) for text in row[1:])]


async def _runs_of(connection: AsyncConnection, table: Table, org: str) -> list[Any]:
    """Runs of this org alone, and such for some orgs by name that have ended."""
    rows = await connection.stream(
        select(table.c.id, cast(table.c.parameters, String), cast(table.c.state_type, String)).where(
            cast(table.c.parameters, String).like(f'%"{_escaped(org)}"%', escape="\\")
        )
    )
    found = []
    async for run_id, text, state in rows:
        parameters = json.loads(text)
        if _concerns(parameters, org) or (_names_among_others(parameters, org) and state in _ENDED):
            found.append(run_id)
    return found


async def _block_of(connection: AsyncConnection, table: Table, org: str) -> list[Any]:
    rows = await connection.execute(select(table.c.id).where(table.c.name == block_name(org)))
    return list(rows.scalars())


def _is_plain(kind: Any) -> bool:  # noqa: ANN401 - whatever type the database reflects
    """Numbers, times, truth values and UUIDs name nobody."""
    return type(kind).__name__.upper() in {
        *("INTEGER", "BIGINT", "FLOAT", "DOUBLE_PRECISION", "NUMERIC", "REAL", "BOOLEAN", "UUID"),
        *("TIMESTAMP", "DATETIME", "DATE", "SMALLINT", "INTERVAL"),
    }


def _escaped(name: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", name)


async def _delete(connection: AsyncConnection, table: Table, column: str, ids: list[Any]) -> None:
    for start in range(0, len(ids), PAGE):
        await connection.execute(delete(table).where(table.c[column].in_(ids[start : start + PAGE])))


async def _redact(
    connection: AsyncConnection, table: Table, pattern: re.Pattern[str], names: list[str]
) -> list[Any]:
    """Take the org out of what these rows say; gives their ids."""
    redacted: set[Any] = set()
    for column, instead in _REDACTED[table.name].items():
        ids = await _naming_rows(connection, table, pattern, names, only=column)
        for start in range(0, len(ids), PAGE):
            some = table.c.id.in_(ids[start : start + PAGE])
            await connection.execute(update(table).where(some).values({column: instead}))
        redacted.update(ids)
    return list(redacted)


async def _remove_runs(connection: AsyncConnection, metadata: MetaData, ids: list[Any]) -> None:
    """Runs with all that hangs on them; said in full, because SQLite cascades only for those who ask for it."""
    for start in range(0, len(ids), PAGE):
        some = ids[start : start + PAGE]
        tasks = metadata.tables["task_run"]
        task_ids = select(tasks.c.id).where(tasks.c.flow_run_id.in_(some))
        states = metadata.tables["task_run_state"]
        await connection.execute(delete(states).where(states.c.task_run_id.in_(task_ids)))
        for name in (
            "log",
            "artifact",
            "artifact_collection",
            "flow_run_input",
            "task_run",
            "flow_run_state",
        ):
            table = metadata.tables[name]
            await connection.execute(delete(table).where(table.c.flow_run_id.in_(some)))
        runs = metadata.tables["flow_run"]
        await connection.execute(delete(runs).where(runs.c.id.in_(some)))
