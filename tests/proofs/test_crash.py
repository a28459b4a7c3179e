"""S1: a process that is killed in the middle of a sync leaves nothing half, and nothing that hinders the next one."""

import asyncio
import random
from asyncio.subprocess import Process
from typing import Any

import pytest

from blocks.settings import Settings
from sandbox import Sandbox, running_sandbox
from store.database import Database
from store.errors import NoSnapshotError
from store.snapshots import read_snapshot
from tasks.installation import open_database
from tests.proofs.support import end, kill, rounds, start_kommo
from tests.syncing import assert_stored_is_held, by_id, connect, held, only, quiet_config, stored

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("prefect_api")]

# A sync sends 18 requests or more then: two and a half seconds at seven a second.
FIELDS = 600
LATEST_KILL = 11


async def _assert_whole(database: Database, org: str, wanted: dict[str, Any]) -> set[str]:
    """Each kind is either not there or exactly what the sandbox holds; gives those that are there."""
    there: set[str] = set()
    for kind, items in wanted.items():
        try:
            found = (await read_snapshot(database, org, kind)).items
        except NoSnapshotError:
            continue
        assert only(items, found) == items, kind
        there.add(kind)
        await asyncio.sleep(0)
    return there


async def _reader(database: Database, org: str, wanted: dict[str, Any]) -> None:
    while True:
        await _assert_whole(database, org, wanted)
        await asyncio.sleep(0.1)


async def _kill_after(requests: int, delay: float, process: Process, kommo: Sandbox) -> None:
    """SIGKILL once so many requests have come in, and a moment later."""
    async with asyncio.timeout(60):
        while len(kommo.world.log.entries) < requests:
            assert process.returncode is None, "the sync ended before it could be killed"
            await asyncio.sleep(0.005)
    await asyncio.sleep(delay)
    process.kill()
    await process.communicate()
    assert process.returncode == -9, "the sync ended before it could be killed"


@pytest.mark.seconds(8)
async def test_s1_kill_9_in_the_middle_of_a_sync_leaves_no_half_snapshot_and_a_rerun_the_same_rows(
    installation: Settings, prefect_api: str
) -> None:
    async with (
        running_sandbox(quiet_config(accounts=1, fields=FIELDS)) as kommo,
        open_database(installation) as database,
    ):
        wanted = {kind: by_id(items) for kind, items in held(kommo, "acme").items()}
        for number in range(rounds(20)):
            org = f"acme-{number}"
            await connect(org, kommo.accounts[0], installation)
            kommo.world.log.entries.clear()
            requests, delay = random.randint(2, LATEST_KILL), random.uniform(0, 0.15)
            process = await start_kommo("sync", org, api=prefect_api, per_second=7)
            reading = asyncio.create_task(_reader(database, org, wanted))
            try:
                await _kill_after(requests, delay, process, kommo)
            finally:
                await kill(process)
                reading.cancel()
                seen = (await asyncio.gather(reading, return_exceptions=True))[0]
            assert isinstance(seen, asyncio.CancelledError), seen
            left = await _assert_whole(database, org, wanted)
            print(  # noqa: T201 - shown with -s
                f"\nround {number}: killed {delay:.3f} s after request {requests}; whole: {sorted(left)}"
            )
            assert left < wanted.keys()
            report = await end(await start_kommo("sync", org, "--json", api=prefect_api, per_second=50))
            assert report["state"] == "completed"
            assert_stored_is_held(await stored(org, installation), kommo, "acme")
