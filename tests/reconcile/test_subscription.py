"""Subscribing to an account's webhooks: safe to repeat, nothing left behind, the key kept nowhere."""

import dataclasses

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from blocks.app import KommoApp
from blocks.settings import Settings
from kommo.subscriptions import EVENTS, list_subscriptions, subscribe
from store.database import Database
from store.subscriptions import get_subscription
from store.tables import metadata
from store.webhook_keys import create_key, find_key, hash_of_key, list_keys
from tasks.subscription import (
    Door,
    Found,
    door_of,
    forget_webhook,
    remove_webhook,
    subscribe_connected,
)
from tests.reconcile.support import DOOR, PUBLIC, Office, opened


def key_of(office: Office) -> str:
    (hook,) = office.hooks
    return str(hook["destination"]).rpartition("/")[2]


async def test_a_destination_with_a_key_is_subscribed_with_an_array_of_names(
    db: Database,
) -> None:
    async with opened(db) as office:
        subscription, found = await office.subscribe()
        (hook,) = office.hooks
        assert hook["destination"].startswith(f"{PUBLIC}/api/webhooks/kommo/")
        assert set(hook["settings"]) == set(EVENTS)
        assert (found, subscription.state, subscription.destination_host) == (
            Found.MISSING,
            "on",
            "app.example.com",
        )
        known = await find_key(office.database, hash_of_key(key_of(office)))
        assert known is not None
        assert (known.org, known.account_id) == ("acme", office.connection.account_id)
        assert await get_subscription(office.database, "acme") == subscription


async def test_t5_the_key_stands_in_no_table(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        key = key_of(office)
        async with office.database.read() as connection:
            for table in metadata.sorted_tables:
                rows = (await connection.execute(select(table))).all()
                assert key not in repr(rows), table.name
        known = await list_subscriptions(office.client)
        assert known[0].destination.endswith(key)
        assert key not in repr(known)


async def test_subscribing_again_changes_nothing(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        key, sent = key_of(office), office.requests_sent
        _, found = await office.subscribe()
        assert (found, key_of(office)) == (Found.GOOD, key)
        assert office.requests_sent - sent == 1
        assert len(await list_keys(office.database, "acme")) == 1


async def test_what_is_left_over_is_removed_and_others_are_left_alone(
    db: Database,
) -> None:
    async with opened(db) as office:
        await office.subscribe(Door("https://old.example.com/api/webhooks/kommo"))
        old = key_of(office)
        foreign = "https://elsewhere.example.com/hook/abc"
        neighbour = f"{DOOR.base}/neighbour"
        await create_key(
            office.database,
            "globex",
            office.connection.account_id,
            hash_of_key("neighbour"),
            now=office.clock.now(),
        )
        for destination in (foreign, neighbour, f"{DOOR.base}/forgotten"):
            await subscribe(office.client, destination, ("add_lead",))
        _, found = await office.subscribe()
        destinations = {str(hook["destination"]) for hook in office.hooks}
        assert found is Found.MISSING
        assert {foreign, neighbour} < destinations
        (ours,) = destinations - {foreign, neighbour}
        assert ours.startswith(f"{DOOR.base}/")
        assert await find_key(office.database, hash_of_key(old)) is None
        assert await find_key(office.database, hash_of_key(ours.rpartition("/")[2])) is not None
        assert await find_key(office.database, hash_of_key("neighbour")) is not None


async def test_names_that_are_missing_are_added(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        key = key_of(office)
        await subscribe(office.client, f"{DOOR.base}/{key}", ("add_lead",))
        _, found = await office.subscribe()
        (hook,) = office.hooks
        assert (found, key_of(office)) == (Found.INCOMPLETE, key)
        assert set(hook["settings"]) == set(EVENTS)


@pytest.mark.parametrize("post_enables", [True, False])
async def test_w5_a_disabled_subscription_is_switched_on_again(db: Database, post_enables: bool) -> None:
    async with opened(db) as office:
        await office.subscribe()
        key = key_of(office)
        account = office.sandbox.account("acme")
        office.sandbox.world.webhooks.configure(post_enables=post_enables)
        account.webhooks.change(office.hooks[0]["id"], disabled=True)
        subscription, found = await office.subscribe()
        (hook,) = office.hooks
        assert (found, subscription.state, hook["disabled"]) == (Found.DISABLED, "on", False)
        assert key_of(office) == key
        assert subscription.disabled_seen_at is not None


async def test_an_account_that_may_not_have_webhooks_says_why(db: Database) -> None:
    async with opened(db, admin=False) as office:
        subscription, found = await office.subscribe()
        assert (found, subscription.state) == (None, "off")
        assert "administrator" in (subscription.reason or "")
        assert await list_keys(office.database, "acme") == []


async def test_without_a_public_address_nothing_is_asked(db: Database) -> None:
    async with opened(db) as office:
        subscription, found = await office.subscribe(Door(None, "No address."))
        assert (found, subscription.state, subscription.reason) == (None, "off", "No address.")
        assert office.requests_sent == 0


async def test_an_answer_that_does_not_come_leaves_what_is_known(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        office.sandbox.world.faults.add(kind="502", path="webhooks")
        subscription, found = await office.subscribe()
        assert (found, subscription.state) == (None, "on")
        assert "gateway" in (subscription.reason or "")


async def test_ending_removes_the_subscription_and_its_keys(db: Database) -> None:
    async with opened(db) as office:
        await office.subscribe()
        key = key_of(office)
        foreign = "https://elsewhere.example.com/hook/abc"
        await subscribe(office.client, foreign, ("add_lead",))
        assert await remove_webhook(office.client, "acme", DOOR, database=office.database) == 1
        assert [hook["destination"] for hook in office.hooks] == [foreign]
        async with office.database.begin() as transaction:
            await forget_webhook(transaction, "acme", "A person disconnected it.", office.clock.now())
        assert await find_key(office.database, hash_of_key(key)) is None
        stored = await get_subscription(office.database, "acme")
        assert stored is not None
        assert (stored.state, stored.key_hash, stored.reason) == ("off", None, "A person disconnected it.")


async def test_a_new_connection_stands_whatever_becomes_of_its_webhooks(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOMMO_SANDBOX", "1")
    monkeypatch.setenv("KOMMO_WEBHOOK_URL", PUBLIC)
    async with opened(db) as office:
        access = office.sandbox.accounts[0]
        settings = Settings()

        async def connect(token: str) -> str | None:
            await subscribe_connected(
                office.connection,
                SecretStr(token),
                settings,
                database=office.database,
                app=None,
                clock=office.clock,
            )
            found = await get_subscription(office.database, "acme")
            return None if found is None else found.state

        assert await connect("no token at all") == "missing"
        assert await connect(access.plain_token) == "off"
        assert await connect(access.admin_token) == "on"
        assert len(office.hooks) == 1


@pytest.mark.parametrize(
    ("webhook_url", "app_url", "sandbox", "wanted"),
    [
        ("https://hooks.example.com", "https://app.example.com", False, "https://hooks.example.com"),
        ("", "https://app.example.com/", False, "https://app.example.com"),
        ("https://app.example.com/kommo", "", False, "https://app.example.com/kommo"),
        ("http://app.example.com", "", False, None),
        ("http://127.0.0.1:8000", "", True, "http://127.0.0.1:8000"),
        ("", "", True, None),
        ("app.example.com", "", True, None),
        ("https://user:secret@app.example.com", "", False, None),
        ("https://app.example.com?x=1", "", False, None),
        ("https://[", "", False, None),
    ],
)
def test_where_webhooks_are_to_go(webhook_url: str, app_url: str, sandbox: bool, wanted: str | None) -> None:
    settings = Settings(webhook_url=webhook_url, sandbox=sandbox)
    door = door_of(settings.model_copy(update={"app_url": ""}), KommoApp(app_url=app_url))
    assert door.base == (None if wanted is None else f"{wanted}/api/webhooks/kommo")
    assert (door.why is None) is (wanted is not None)
    assert "secret" not in str(door)
    assert dataclasses.is_dataclass(door)
