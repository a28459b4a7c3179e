"""A fleet in shards: everybody is refreshed once, synced once, the same as at Kommo. Figures: `tests.proofs.fleet`."""

import asyncio

import pytest

from blocks.app import KommoApp
from blocks.settings import Settings
from flows.fleet_sync import full_crm_sync_all
from flows.token_refresh import token_refresh
from sandbox import running_sandbox
from store.connections import get_connection
from store.snapshots import list_runs
from tasks.errors import FleetSyncFailedError
from tasks.installation import budget_of, open_database
from tasks.scopes import Scope
from tests.proofs.fleet_checks import check_refresh, check_sync
from tests.proofs.fleet_seed import HOURS_OLD, ask, seed_fleet
from tests.syncing import quiet_config

pytestmark = [
    pytest.mark.whole_service,
    pytest.mark.proof,
    pytest.mark.one_database,
    pytest.mark.usefixtures("prefect_api"),
    pytest.mark.seconds(8),
]

SHARDS = ("1/2", "2/2")


async def test_shards_refresh_and_sync_every_connection_once(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOMMO_EGRESS_REQUESTS_PER_SECOND", "0")
    config = quiet_config(accounts=20, small=True, leads=2, contacts=2, companies=1, talks=1)
    async with running_sandbox(config) as kommo, open_database(installation) as database:
        known = kommo.world.integration
        for name in ("client_id", "client_secret", "redirect_uri"):
            monkeypatch.setenv(f"KOMMO_{name.upper()}", getattr(known, name))
        given = {"accounts": "all", "age": HOURS_OLD * 3600}
        pairs = await ask(kommo.url, "pairs", "POST", given)
        orgs = await seed_fleet(database, KommoApp.from_environment(), pairs)

        refreshed = await asyncio.gather(*(token_refresh("6h", shard=shard) for shard in SHARDS))
        assert sum(report.refreshed for report in refreshed) == 20
        assert all(report.due == report.refreshed > 0 for report in refreshed)
        assert await check_refresh(database, kommo.url, orgs) == {
            "calls": 20,
            "refreshed_once": 20,
            "not_once": {},
            "points_to_a_dead_pair": [],
            "not_connected": [],
        }

        synced = await asyncio.gather(*(full_crm_sync_all(shard=shard) for shard in SHARDS))
        assert [report.completed for report in synced] == [report.due for report in refreshed]
        wanted = {"synced": 20, "synced_twice": [], "turns_held": 0, "differing": []}
        assert await check_sync(database, kommo.url, orgs) == wanted

        # Who comes after a killed run finds what it has done; what has changed is told of.
        changed, other = list(orgs)[2], list(orgs)[3]
        kommo.change(
            orgs[changed], "delete_pipeline", pipeline_id=_second_pipeline(kommo.account(orgs[changed]))
        )
        before = len(kommo.world.log.entries)
        again = await full_crm_sync_all(synced_within="12h")
        assert (again.due, len(kommo.world.log.entries)) == (0, before)
        drifted = await full_crm_sync_all(Scope.FUNNELS)
        assert (drifted.completed, drifted.drifted, drifted.breaking) == (20, 1, 1)
        assert (await get_connection(database, other)).state == "connected"

        # Kommo blocks the address: the rest of the fleet is left alone, and not called failed.
        await budget_of(database, Settings()).block(["egress:default"], 900, "Kommo blocked our address")
        with pytest.raises(FleetSyncFailedError, match="stopped before its end") as caught:
            await full_crm_sync_all(Scope.FIELDS, concurrency=2)
        assert caught.value.report.failed <= 2
        runs = [await list_runs(database, org) for org in orgs]
        assert sum(any(run.scope == "fields" for run in of_org) for of_org in runs) <= 2


def _second_pipeline(account: object) -> int:
    return int(list(account.pipelines)[1]["id"])  # type: ignore[attr-defined]  # the sandbox's own type
