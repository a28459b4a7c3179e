"""Erasing an org for good, as privacy law asks for it: here and at Prefect, until nothing is left but one line.

The story: end the connection, so that nothing new begins; end what is running; wait until what a gateway still takes in
is written; remove what Prefect remembers; remove the rows; look again, because a run for many orgs may have written
meanwhile. It may be killed at any moment and begun again: the connection's row, by which the org is known, goes last.
"""

from uuid import UUID

from pydantic import BaseModel

from blocks.names import block_name
from blocks.settings import Settings
from kommo.clock import Clock, SystemClock
from store.connections import ConnectionState, get_connection
from store.database import Database
from store.erasing import erase_rows, leftovers
from store.errors import UnknownConnectionError
from store.webhook_keys import list_keys
from tasks.credentials import PrefectBlocks
from tasks.disconnect import WRITING_SECONDS, disconnect
from tasks.errors import NotErasedError
from tasks.prefect_traces import (
    Traces,
    cancel_runs,
    naming,
    remove_runs_and_artifacts,
    runs_under_way,
    scrub_database,
)
from tasks.subscription import KEY_KNOWN_SECONDS

_RUNS_END_WITHIN = 30.0
"""Seconds that runs of the org have to end after they were asked to."""
_LOOKS = 3
"""How often it is looked for what was written meanwhile."""
_RECORDED_WITHIN = 6.0
"""Seconds after which Prefect has recorded an event: it writes them together, every five seconds by default."""
_LOOPBACK = ("127.", "localhost", "[::1]")


class EraseReport(BaseModel):
    """What was removed, or, of a look only, what would be."""

    org: str
    rows: dict[str, int]
    prefect: Traces | None
    """None for a look only."""

    @property
    def events_left(self) -> bool:
        """Whether Prefect's events about the org are left to its own retention."""
        return self.prefect is not None and self.prefect.rows is None


async def what_is_kept(org: str, *, database: Database) -> EraseReport:
    """What is stored of an org, without removing anything.

    Raises:
        UnknownConnectionError: nothing is.
    """
    rows = await leftovers(database, org)
    if not rows:
        raise UnknownConnectionError(f"Nothing is stored of {org!r}. `kommo status` lists the orgs.")
    return EraseReport(org=org, rows=rows, prefect=None)


async def erase(
    org: str,
    settings: Settings,
    *,
    database: Database,
    by: str,
    prefect_database_url: str | None = None,
    clock: Clock | None = None,
) -> EraseReport:
    """Remove every trace of an org but the line of the audit that says so.

    Args:
        org: the product's tenant; connected, disconnected, or half erased before.
        settings: this installation.
        database: an open database.
        by: who asked for it, for the audit.
        prefect_database_url: where Prefect keeps its own data; without it, Prefect's events about the org end by
            Prefect's own retention.
        clock: source of time.

    Returns:
        What was removed.

    Raises:
        UnknownConnectionError: nothing is stored of the org.
        BlocksUnavailableError: Prefect does not answer; nothing is lost by doing it again.
        NotErasedError: something goes on writing about the org; the sentence says what is left.
    """
    clock = clock or SystemClock()
    report = await what_is_kept(org, database=database)
    names = await _end_connection(org, settings, database, clock)
    pattern = naming(names)
    running = await cancel_runs(org)
    await _wait_for(running, clock)
    # Prefect before our rows: by these, whoever was killed in the middle finds the org, and what it is called, again.
    async with PrefectBlocks() as blocks:
        await blocks.delete(org)
    report = report.model_copy(update={"rows": {}, "prefect": await remove_runs_and_artifacts(org, pattern)})
    if report.prefect and prefect_database_url:
        await _scrub(report.prefect, prefect_database_url, org, names, clock)
    for look in range(_LOOKS):
        if await leftovers(database, org):
            for table, count in (await erase_rows(database, org, by=by, now=clock.now())).items():
                report.rows[table] = report.rows.get(table, 0) + count
        if look < _LOOKS - 1:
            await clock.sleep(1.0)
    # And once more for what a run for many orgs has told of it meanwhile.
    await remove_runs_and_artifacts(org, pattern)
    if prefect_database_url:
        await scrub_database(prefect_database_url, org, names)
    if left := await leftovers(database, org):
        raise NotErasedError(org, left)
    return report


async def _scrub(traces: Traces, url: str, org: str, names: list[str], clock: Clock) -> None:
    """Reach into Prefect's database until nothing new is found: the removal itself is recorded there as events."""
    removed: dict[str, int] = {}
    for look in range(_LOOKS):
        if look:
            await clock.sleep(_RECORDED_WITHIN)
        found = await scrub_database(url, org, names)
        for table, count in (found.rows or {}).items():
            removed[table] = removed.get(table, 0) + count
        traces.left = found.left
        if look and not found.rows:
            break
    traces.rows = removed


async def _end_connection(org: str, settings: Settings, database: Database, clock: Clock) -> list[str]:
    """End the connection and let what is being taken in settle; gives the names by which the org is known."""
    try:
        connection = await get_connection(database, org)
    except UnknownConnectionError:  # half erased before, or purged
        return _names_at_prefect(org)
    had_keys = any(key.revoked_at is None for key in await list_keys(database, org))
    if connection.state != ConnectionState.DISCONNECTED:
        await disconnect(org, settings, database=database, clock=clock)
    if had_keys:
        await clock.sleep(KEY_KNOWN_SECONDS + WRITING_SECONDS)
    host = "" if connection.host.startswith(_LOOPBACK) else connection.host
    # Not what the account is called: a customer may call it as Prefect calls its states, and it is told nowhere
    # without the org.
    names = (str(connection.account_id or ""), host)
    return [*_names_at_prefect(org), *(name for name in names if name)]


def _names_at_prefect(org: str) -> list[str]:
    """The org itself, its block, and the keys of its artifacts (tasks/publish.py, tasks/progress.py)."""
    return [org, block_name(org), *(f"kommo-{what}-{org}" for what in ("sync", "drift", "progress"))]


async def _wait_for(running: list[UUID], clock: Clock) -> None:
    end = clock.monotonic() + _RUNS_END_WITHIN
    while await runs_under_way(running) and clock.monotonic() < end:
        await clock.sleep(1.0)
