"""The flow `full-crm-sync`, run by a real Prefect engine against the sandbox."""

import logging
from datetime import UTC, datetime

import pytest

from blocks.settings import Settings
from flows.fleet_sync import full_crm_sync_all
from flows.full_sync import full_crm_sync
from kommo.budget import Lane
from kommo.clock import SystemClock
from kommo.errors import KommoError
from sandbox import running_sandbox
from store.connections import get_connection
from store.erasing import erase_rows, leftovers
from store.outbox import list_outbox
from store.snapshots import read_snapshot
from tasks.backlog_clients import open_clients
from tasks.connect import connect_with_token
from tasks.credentials import PrefectBlocks
from tasks.errors import FleetSyncFailedError, NotConnectedError, SyncFailedError, WrongAccountError
from tasks.installation import open_database
from tasks.scopes import Scope, SyncScope
from tasks.sync_org import sync_org
from tests.syncing import assert_stored_is_held, connect, quiet_config, stored

pytestmark = pytest.mark.usefixtures("prefect_api")


class _TaskRuns(logging.Handler):
    """Counts finished task runs by what the engine itself logs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if "Finished in state" in record.getMessage():
            self.names.add(str(getattr(record, "task_run_id", record.getMessage())))


@pytest.mark.seconds(3)
async def test_s2_a_sync_stores_exactly_what_kommo_holds(installation: Settings) -> None:
    async with running_sandbox(quiet_config(accounts=4)) as kommo:
        for account in kommo.accounts:
            await connect(account.subdomain, account, installation)
            report = await full_crm_sync(account.subdomain, SyncScope.ALL)
            assert report.state == "completed"
            if account.subdomain == "acme":
                assert_stored_is_held(await stored("acme", installation), kommo, "acme")
            else:
                found = {kind.kind: kind.items for kind in report.kinds}
                state = kommo.account(account.subdomain)
                assert found["pipelines"] == len(state.pipelines)
                assert found["lead_fields"] == len(state.fields["leads"])
                assert found["loss_reasons"] == len(state.loss_reasons)


async def test_a_fleet_tells_and_keeps_nothing_of_an_org_that_is_erased_while_it_waits_for_its_turn(
    installation: Settings,
) -> None:
    async with running_sandbox(quiet_config(accounts=1)) as kommo:
        await connect("acme", kommo.accounts[0], installation)
        clock = SystemClock()
        async with (
            open_database(installation) as database,
            open_clients(database, installation, clock, lane=Lane.SYNC, attempts=1, shared=True) as clients,
        ):
            connection = await get_connection(database, "acme")
            await erase_rows(database, "acme", by="dpo", now=clock.now())
            for _ in range(2):
                done = await sync_org(database, clients, connection, Scope.ALL, clock)
                assert await leftovers(database, "acme") == {}
                assert done.ended
                async with (
                    PrefectBlocks() as blocks
                ):  # at first it is still there, as with a run that knows it
                    await blocks.delete("acme")


async def test_s3_an_unchanged_sync_writes_nothing_and_a_renamed_stage_exactly_one_row(
    installation: Settings,
) -> None:
    async with running_sandbox(quiet_config(accounts=1)) as kommo:
        await connect("acme", kommo.accounts[0], installation)
        first = await full_crm_sync("acme")
        assert first.drift.changes == []
        again = await full_crm_sync("acme")
        assert sum(kind.rows_written for kind in again.kinds) == 0
        before = datetime.now(tz=UTC)
        pipeline = next(iter(kommo.account("acme").pipelines))
        kommo.change("acme", "rename_status", pipeline_id=pipeline["id"], status_id=142, name="Paid")
        renamed = await full_crm_sync("acme")
    assert {kind.kind: kind.rows_written for kind in renamed.kinds if kind.rows_written} == {"statuses": 1}
    [change] = renamed.drift.changes
    assert (change.kind, change.change, change.name) == ("statuses", "renamed", "Paid")
    async with open_database(installation) as database:
        told = [one for one in await list_outbox(database, org="acme") if one.type != "integration_connected"]
        assert [one.type for one in told] == [*["kommo.sync.completed"] * 3, "kommo.drift.detected"]
        assert {one.payload["run_id"] for one in told[2:]} == {renamed.run_id}
        assert told[3].payload["first"][0]["name"] == "Paid"
        then = await read_snapshot(database, "acme", "statuses", at=before, nested=False)
        now = await read_snapshot(database, "acme", "statuses", nested=False)
    assert "Paid" not in {item["name"] for item in then.items}
    assert "Paid" in {item["name"] for item in now.items}


async def test_a_config_sync_costs_at_most_twelve_task_runs(installation: Settings) -> None:
    counter = _TaskRuns()
    logger = logging.getLogger("prefect.task_runs")
    logger.addHandler(counter)
    try:
        async with running_sandbox(quiet_config(accounts=1)) as kommo:
            await connect("acme", kommo.accounts[0], installation)
            await full_crm_sync("acme", SyncScope.ALL)
    finally:
        logger.removeHandler(counter)
    assert 8 <= len(counter.names) <= 12


@pytest.mark.parametrize(
    ("scope", "kinds"),
    [
        (SyncScope.FUNNELS, {"pipelines", "statuses"}),
        (SyncScope.CHANNELS, {"channels"}),
        (
            SyncScope.FIELDS,
            {
                f"{entity}_{what}"
                for entity in ("lead", "contact", "company")
                for what in ("fields", "field_enums")
            },
        ),
    ],
)
async def test_the_products_scopes_read_only_what_they_name(
    installation: Settings, scope: SyncScope, kinds: set[str]
) -> None:
    async with running_sandbox(quiet_config(accounts=1)) as kommo:
        await connect("acme", kommo.accounts[0], installation)
        report = await full_crm_sync("acme", scope)
    assert {kind.kind for kind in report.kinds} == kinds | {"account", "task_types"}


async def test_the_records_are_read_where_the_scope_says_so_after_what_they_are_understood_by(
    installation: Settings,
) -> None:
    async with running_sandbox(quiet_config(accounts=1)) as kommo:
        await connect("acme", kommo.accounts[0], installation)
        alone = await full_crm_sync("acme", SyncScope.RECORDS)
        together = await full_crm_sync("acme", SyncScope.EVERYTHING)
        held = {
            kind: len(kommo.account("acme").entities[kind]) for kind in ("leads", "contacts", "companies")
        }
    assert alone.kinds == []
    assert alone.records is not None
    read = {one.kind: one.added for one in alone.records.kinds}
    assert {kind: read[kind] for kind in held} == held
    assert {kind.kind for kind in together.kinds} >= {"pipelines", "channels", "lead_fields", "users"}
    assert together.records is not None
    assert not any(one.added or one.changed for one in together.records.kinds), "nothing has changed since"


async def test_s1_a_failed_kind_leaves_the_others_whole_and_the_run_failed(installation: Settings) -> None:
    async with running_sandbox(quiet_config(accounts=1)) as kommo:
        account = kommo.accounts[0]
        await connect("acme", account, installation, token=account.plain_token)
        with pytest.raises(SyncFailedError, match=r"users: .*may not") as caught:
            await full_crm_sync("acme")
        report = caught.value.report
        assert {kind.kind for kind in report.kinds if kind.state == "failed"} == {"users"}
        async with open_database(installation) as database:
            pipelines = await read_snapshot(database, "acme", "pipelines")
            assert len(pipelines.items) == len(kommo.account("acme").pipelines)
            connection = await get_connection(database, "acme")
    assert connection.state == "degraded"
    assert "users" in (connection.reason or "")
    assert connection.last_synced_at is None


async def test_t4_a_refused_token_needs_a_person_and_other_faults_do_not(installation: Settings) -> None:
    async with running_sandbox(quiet_config(accounts=1)) as kommo:
        account = kommo.accounts[0]
        await connect("acme", account, installation)
        kommo.account("acme").paid = False
        with pytest.raises(SyncFailedError, match="paid"):
            await full_crm_sync("acme")
        assert (await _state("acme", installation)) == "degraded"
        kommo.account("acme").paid = True
        await full_crm_sync("acme")
        assert (await _state("acme", installation)) == "connected"
        kommo.world.oauth.revoke(account.account_id, None, account.admin_token)
        with pytest.raises(SyncFailedError, match="token"):
            await full_crm_sync("acme")
        assert (await _state("acme", installation)) == "reauthorization_required"


async def _state(org: str, settings: Settings) -> str:
    async with open_database(settings) as database:
        return (await get_connection(database, org)).state


async def test_an_unknown_org_is_told_what_to_do(installation: Settings) -> None:
    del installation
    with pytest.raises(NotConnectedError, match="kommo connect nobody"):
        await full_crm_sync("nobody")


async def test_an_org_is_never_mixed_with_another_account(installation: Settings) -> None:
    async with running_sandbox(quiet_config(accounts=2)) as kommo:
        mine, other = kommo.accounts
        await connect("acme", mine, installation)
        with pytest.raises(WrongAccountError, match="--replace"):
            await connect("acme", other, installation)
        async with open_database(installation) as database:
            assert (await get_connection(database, "acme")).account_id == mine.account_id


async def test_r4_a_token_is_never_sent_to_a_foreign_host(installation: Settings) -> None:
    from pydantic import SecretStr

    with pytest.raises(KommoError, match="not the address of a Kommo account"):
        await connect_with_token("acme", "evil.example", SecretStr("token"), installation)
    assert (await _state("acme", installation)) == "failed"


@pytest.mark.seconds(3)
async def test_the_fleet_goes_on_when_one_org_fails(installation: Settings) -> None:
    async with running_sandbox(quiet_config(accounts=3)) as kommo:
        for account in kommo.accounts:
            await connect(account.subdomain, account, installation)
        broken = kommo.accounts[1].subdomain
        kommo.account(broken).paid = False
        with pytest.raises(FleetSyncFailedError, match=f"1 of 3 orgs .*{broken}") as caught:
            await full_crm_sync_all(Scope.FUNNELS, concurrency=2)
    report = caught.value.report
    assert (report.due, report.completed, report.failed) == (3, 2, 1)
    assert [one.org for one in report.failures] == [broken]
    assert "paid" in report.failures[0].reason


async def test_s1_a_quiet_channel_is_not_taken_for_a_removed_one(installation: Settings) -> None:
    async with running_sandbox(quiet_config(accounts=1, talks=1500)) as kommo:
        await connect("acme", kommo.accounts[0], installation)
        first = await full_crm_sync("acme", SyncScope.CHANNELS)
        origins = {talk["origin"] for talk in kommo.account("acme").talks}
        # Of one origin only the oldest talk is left: it is beyond what is read.
        gone_quiet = min(origins)
        talks = kommo.account("acme").talks
        for talk in list(talks)[1:]:
            if talk["origin"] == gone_quiet:
                talks.change(talk["talk_id"], origin=sorted(origins)[1])
        second = await full_crm_sync("acme", SyncScope.CHANNELS)
    assert sum(kind.removed for kind in second.kinds) == 0
    assert {kind.kind: kind.items for kind in first.kinds} == {kind.kind: kind.items for kind in second.kinds}
