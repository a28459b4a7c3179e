"""Connecting by a consent, refreshing, and syncing with a pair: real flows on a real Prefect engine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks.app import KommoApp
from blocks.connection import KommoConnection
from blocks.names import block_name
from blocks.settings import Settings
from flows.connect import connect_account, disconnect_account
from flows.full_sync import full_crm_sync
from flows.parameters import parse_span
from flows.token_refresh import token_refresh
from kommo.clock import SystemClock
from kommo.errors import ErrorKind, KommoError
from kommo.hosts import parse_host
from sandbox import Sandbox, running_sandbox
from sandbox.oauth_pages import callback_url
from store.audit import list_audit
from store.claims import release, take_claim
from store.connections import ConnectionRecord, get_connection, set_state
from store.database import Database
from store.errors import NoSnapshotError
from store.outbox import list_outbox
from store.runs import finish_run
from store.snapshots import read_snapshot
from store.token_journal import chain
from tasks import conclude
from tasks.app import DEFAULT_NAME, find_app, require_app
from tasks.connect import connect_with_code, connect_with_token
from tasks.credentials import PrefectBlocks
from tasks.disconnect import confirm_uninstall
from tasks.errors import (
    AppIncompleteError,
    BlocksUnavailableError,
    RefreshRunFailedError,
    SyncFailedError,
    WrongAccountError,
)
from tasks.installation import open_database
from tasks.keys import encryption_warning, rotate_keys
from tasks.scopes import Group, Scope
from tasks.session import open_refresher, open_sync_session
from tasks.status import fleet_status, org_status
from tasks.vault import HeldPair, Vault
from tests.syncing import connect, quiet_config
from tests.tokens.support import token_calls, works

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
async def kommo(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """A sandbox whose integration is in the environment."""
    async with running_sandbox(quiet_config(accounts=3, leads=1, contacts=1, companies=1)) as sandbox:
        known = sandbox.world.integration
        monkeypatch.setenv("KOMMO_CLIENT_ID", known.client_id)
        monkeypatch.setenv("KOMMO_CLIENT_SECRET", known.client_secret)
        monkeypatch.setenv("KOMMO_REDIRECT_URI", known.redirect_uri)
        yield sandbox


def code_of(kommo: Sandbox, subdomain: str) -> SecretStr:
    url = callback_url(kommo.world, kommo.world.integration, kommo.account(subdomain), "")
    return SecretStr(url.partition("code=")[2].partition("&")[0])


async def consent(
    kommo: Sandbox, database: Database, org: str = "acme", subdomain: str = "acme", *, replace: bool = False
) -> ConnectionRecord:
    settings = Settings()
    return await connect_with_code(
        org,
        parse_host(kommo.account(subdomain).host, allow_loopback=True),
        code_of(kommo, subdomain),
        settings,
        database=database,
        app=await require_app(settings),
        replace=replace,
    )


async def held_by(database: Database, org: str = "acme") -> HeldPair:
    app = await find_app(Settings())
    async with PrefectBlocks() as blocks:
        vault = Vault(database=database, blocks=blocks, sealer=app.sealer(), clock=SystemClock())
        return await vault.held(await get_connection(database, org))


async def test_a_consent_becomes_a_connection_with_its_first_snapshot(
    installation: Settings, kommo: Sandbox
) -> None:
    async with open_database(installation) as database:
        connection = await consent(kommo, database)
        assert (connection.state, connection.token_kind) == ("connected", "pair")
        report = await connect_account("acme")
        assert report.state == "completed"
        assert (await read_snapshot(database, "acme", "pipelines")).items
        block = cast("KommoConnection", await KommoConnection.aload(block_name("acme")))
        assert block.token_kind == "pair"
        held = await held_by(database)
        assert block.refresh_token == held.refresh_token
        assert works(kommo, held)
        [told, synced] = await list_outbox(database, org="acme")
        assert (told.type, synced.type) == ("integration_connected", "kommo.sync.completed")
        assert told.payload["account_id"] == kommo.account("acme").id


async def test_a_code_is_good_once_and_for_its_own_account(installation: Settings, kommo: Sandbox) -> None:
    async with open_database(installation) as database:
        await consent(kommo, database)
        with pytest.raises(WrongAccountError):
            await consent(kommo, database, subdomain="globex")
        assert works(kommo, await held_by(database))
        assert (await get_connection(database, "acme")).account_id == kommo.account("acme").id
        moved = await consent(kommo, database, subdomain="globex", replace=True)
        assert moved.account_id == kommo.account("globex").id
        assert works(kommo, await held_by(database))


async def test_a_refused_code_leaves_nothing_behind(installation: Settings, kommo: Sandbox) -> None:
    async with open_database(installation) as database:
        code = code_of(kommo, "acme")
        kommo.world.clock_offset += timedelta(minutes=21).total_seconds()
        settings = Settings()
        with pytest.raises(KommoError) as caught:
            await connect_with_code(
                "acme",
                parse_host(kommo.account("acme").host, allow_loopback=True),
                code,
                settings,
                database=database,
                app=await require_app(settings),
            )
        assert caught.value.kind is ErrorKind.OAUTH_REFUSED
        assert (await chain(database, "acme")).edges == ()


async def test_a_401_in_the_middle_of_a_sync_refreshes_once_and_goes_on(
    installation: Settings, kommo: Sandbox
) -> None:
    async with open_database(installation) as database:
        await consent(kommo, database)
        before = await held_by(database)
        kommo.world.log.entries.clear()
        kommo.world.faults.add(kind="401", rate=1.0, times=1, after=6, path="/api/v4/")
        report = await full_crm_sync("acme")
        assert report.state == "completed"
        assert token_calls(kommo) == [200]
        after = await held_by(database)
        assert after.fingerprint != before.fingerprint
        assert works(kommo, after)


async def test_t4_a_removed_integration_asks_for_a_person_and_a_sync_does_not_undo_it(
    installation: Settings, kommo: Sandbox
) -> None:
    async with open_database(installation) as database:
        connection = await consent(kommo, database)
        assert connection.account_id is not None
        kommo.world.oauth.revoke(connection.account_id)
        with pytest.raises(SyncFailedError):
            await full_crm_sync("acme")
        after = await get_connection(database, "acme")
        assert (after.state, after.reason_code) == ("reauthorization_required", "token_refused")
        assert [event.type for event in await list_outbox(database, org="acme")] == [
            "integration_connected",
            "integration_error",
            "kommo.connection.reauthorization_required",
            "kommo.sync.failed",
        ]
        again = await consent(kommo, database)
        assert again.state == "connected"
        assert (await full_crm_sync("acme")).state == "completed"


async def test_t4_kommo_that_refuses_good_tokens_for_a_while_ends_no_connection(
    installation: Settings, kommo: Sandbox
) -> None:
    async with open_database(installation) as database:
        await consent(kommo, database)
        kommo.world.faults.add(kind="401", rate=1.0, path="/api/v4/")
        with pytest.raises(SyncFailedError):
            await full_crm_sync("acme")
        assert (await get_connection(database, "acme")).state == "degraded"
        kommo.world.faults.rules.clear()
        assert (await full_crm_sync("acme")).state == "completed"
        assert (await get_connection(database, "acme")).state == "connected"


async def test_a_sync_does_not_revive_a_connection_that_was_ended_meanwhile(
    installation: Settings, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(installation) as database:
        await consent(kommo, database)

        async def ended(*arguments: Any, **more: Any) -> None:
            await set_state(database, "acme", "disconnected", "A person did it.", now=SystemClock().now())
            await finish_run(*arguments, **more)

        monkeypatch.setattr(conclude, "finish_run", ended)
        monkeypatch.setattr(conclude, "PAIR", "what a long-lived token is not")
        await full_crm_sync("acme")
        assert (await get_connection(database, "acme")).state == "disconnected"


async def test_the_refresh_takes_what_is_due_and_one_dead_connection_stops_nobody(
    installation: Settings, kommo: Sandbox
) -> None:
    async with open_database(installation) as database:
        for account in kommo.accounts:
            await consent(kommo, database, account.subdomain, account.subdomain)
        report = await token_refresh("6h")
        assert (report.due, report.refreshed) == (0, 0)
        kommo.world.oauth.revoke(kommo.account("globex").id)
        report = await token_refresh("25h")
        assert (report.due, report.refreshed) == (3, 2)
        [failure] = report.failures
        assert (failure.org, failure.outcome) == ("globex", "reauthorization_required")
        assert "reauthorization_required" in report.summary()
        report = await token_refresh("25h", org="acme")
        assert (report.due, report.refreshed) == (1, 1)
        with pytest.raises(RefreshRunFailedError):
            await token_refresh("6h", org="globex")


async def test_an_idle_pair_is_kept_alive(
    installation: Settings, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(installation) as database:
        await consent(kommo, database)
        monkeypatch.setattr("tasks.refresh_due.IDLE", timedelta(seconds=-1))
        report = await token_refresh("1s")
        assert (report.due, report.refreshed) == (1, 1)


async def test_disconnecting_forgets_the_tokens_and_keeps_the_history_unless_told(
    installation: Settings, kommo: Sandbox
) -> None:
    async with open_database(installation) as database:
        await consent(kommo, database)
        await full_crm_sync("acme")
        await disconnect_account("acme")
        assert (await get_connection(database, "acme")).state == "disconnected"
        assert (await chain(database, "acme")).edges == ()
        with pytest.raises(ValueError, match="Unable to find"):
            await KommoConnection.aload(block_name("acme"))
        assert (await read_snapshot(database, "acme", "pipelines")).items
        report = await disconnect_account("acme", purge=True)
        assert report.purged is not None
        assert report.purged["pipeline"] > 0
        with pytest.raises(NoSnapshotError):
            await read_snapshot(database, "acme", "pipelines")
        assert [entry.event for entry in await list_audit(database, "acme")][:1] == ["purged"]


async def test_an_uninstall_is_believed_only_when_kommo_confirms_it(
    installation: Settings, kommo: Sandbox
) -> None:
    async with open_database(installation) as database:
        connection = await consent(kommo, database)
        assert not await confirm_uninstall("acme", Settings(), database=database)
        assert (await get_connection(database, "acme")).state == "connected"
        # An access token that another process has just replaced is refused, too: that is no proof.
        kommo.world.faults.add(kind="401", rate=1.0, times=1, path="/api/v4/account")
        assert not await confirm_uninstall("acme", Settings(), database=database)
        assert connection.account_id is not None
        kommo.world.oauth.revoke(connection.account_id)
        assert await confirm_uninstall("acme", Settings(), database=database)
        assert (await get_connection(database, "acme")).state == "disconnected"


async def test_a_refresh_that_is_under_way_does_not_overwrite_a_long_lived_token(
    installation: Settings, kommo: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(installation) as database:
        await consent(kommo, database)
        settle, connecting = Vault.settle, []
        account = next(one for one in kommo.accounts if one.subdomain == "acme")

        async def settle_late(vault: Vault, connection: ConnectionRecord, held: HeldPair) -> HeldPair:
            connecting.append(asyncio.create_task(connect("acme", account, Settings())))
            await asyncio.sleep(1.0)
            return await settle(vault, connection, held)

        monkeypatch.setattr(Vault, "settle", settle_late)
        async with open_refresher(database, Settings()) as refresher:
            assert (await refresher.fresh("acme", force=True)).called
        await asyncio.gather(*connecting)
        block = cast("KommoConnection", await KommoConnection.aload(block_name("acme")))
        assert block.access_token.get_secret_value() == account.admin_token
        assert (await get_connection(database, "acme")).token_kind == "long_lived"


async def test_a_refresh_that_was_stopped_right_before_its_save_does_not_overwrite_a_long_lived_token(
    installation: Settings, kommo: Sandbox
) -> None:
    account = next(one for one in kommo.accounts if one.subdomain == "acme")
    async with open_database(installation) as database, PrefectBlocks() as stopped:
        await consent(kommo, database)
        of_the_pair = await stopped.load("acme")
        assert of_the_pair is not None
        await connect_with_token("acme", account.host, SecretStr(account.admin_token), installation)
        with pytest.raises(BlocksUnavailableError):
            await stopped.save("acme", of_the_pair)
        async with PrefectBlocks() as blocks:
            block = await blocks.load("acme")
        assert block is not None
        assert block.access_token.get_secret_value() == account.admin_token


async def test_t4_a_sync_with_the_token_before_does_not_end_the_one_that_replaced_it(
    installation: Settings, kommo: Sandbox
) -> None:
    account = next(one for one in kommo.accounts if one.subdomain == "acme")
    token = SecretStr(account.admin_token)
    async with open_database(installation) as database:
        await connect_with_token("acme", account.host, token, installation)
        async with open_sync_session("acme", Scope.FUNNELS, installation) as session:
            await connect_with_token("acme", account.host, token, installation)
            refused: dict[Any, Any] = {Group.PIPELINES: KommoError(ErrorKind.UNAUTHORIZED, status=401)}
            report = await conclude.conclude_sync(session, Scope.FUNNELS, refused)
            assert report.state == "failed"
            assert (await get_connection(database, "acme")).state == "connected"
        async with open_sync_session("acme", Scope.FUNNELS, installation) as session:
            await conclude.conclude_sync(session, Scope.FUNNELS, refused)
        assert (await get_connection(database, "acme")).state == "reauthorization_required"


async def test_a_block_that_somebody_removed_is_made_anew(installation: Settings, kommo: Sandbox) -> None:
    async with open_database(installation) as database, PrefectBlocks() as ours, PrefectBlocks() as others:
        await consent(kommo, database)
        block = await ours.load("acme")
        assert block is not None
        await others.delete("acme")
        assert await ours.load("acme") is None
        await ours.save("acme", block)
        assert await others.load("acme") is not None


@pytest.fixture
async def no_app_block() -> AsyncIterator[None]:
    """The Kommo App block is one for the whole server: it must not stay for the tests that come after."""
    yield
    with contextlib.suppress(ValueError):
        await KommoApp.adelete(DEFAULT_NAME)


@pytest.mark.usefixtures("no_app_block")
async def test_keys_are_rotated_without_losing_a_token(installation: Settings, kommo: Sandbox) -> None:
    async with open_database(installation) as database:
        await consent(kommo, database)
        async with PrefectBlocks() as blocks:
            await blocks.delete("acme")
        before = await held_by(database)
        done = await rotate_keys(Settings())
        assert (done.keys, done.resealed, done.unreadable) == (1, 1, 0)
        await rotate_keys(Settings())
        done = await rotate_keys(Settings(), drop_old=True)
        assert done.keys == 1
        assert (await held_by(database)).fingerprint == before.fingerprint


async def test_a_rotation_that_cannot_read_the_keys_writes_none(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    async def unreadable(*_: Any, **__: Any) -> None:
        raise ValueError("the document cannot be read")

    async def save(*_: Any, **__: Any) -> None:
        saved.append(1)

    monkeypatch.setattr(KommoApp, "aload", unreadable)
    monkeypatch.setattr(KommoApp, "asave", save)
    with pytest.raises(ValueError, match="cannot be read"):
        await rotate_keys(installation)
    assert not saved


async def test_an_integration_that_is_not_complete_says_what_is_missing(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not installation.client_id
    monkeypatch.setenv("KOMMO_CLIENT_ID", "an-id")
    with pytest.raises(AppIncompleteError, match="KOMMO_CLIENT_SECRET"):
        await require_app(Settings())


@pytest.mark.parametrize(("text", "seconds"), [("6h", 21_600), ("30m", 1_800), ("2d", 172_800), ("90s", 90)])
def test_a_span_of_time_is_written_as_people_do(text: str, seconds: int) -> None:
    assert parse_span(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "6 h", "-1h", "6H", "123456h", "٦h"])
def test_what_is_no_span_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="as in 6h"):
        parse_span(text)


async def test_a_refresh_under_way_is_shown(installation: Settings, kommo: Sandbox) -> None:
    async with open_database(installation) as database:
        await consent(kommo, database)
        claim = await take_claim(database, "acme", "somebody", 30)
        assert claim is not None
        assert (await org_status(database, "acme"))["state"] == "refreshing"
        await release(database, claim)
        assert [one["state"] for one in await fleet_status(database)] == ["connected"]


def test_prefects_key_beside_its_secrets_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        monkeypatch.delenv("PREFECT_SERVER_ENCRYPTION_KEY", raising=False)
        assert "PREFECT_SERVER_ENCRYPTION_KEY" in (encryption_warning() or "")
        monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", "a-key")
        assert encryption_warning() is None
