"""Connecting subscribes, `webhook-health` and `reconcile` look after it, disconnecting ends it: with a real engine."""

from datetime import timedelta

import pytest
from prefect.client.orchestration import get_client

from blocks.settings import Settings
from flows.connect import disconnect_account
from flows.reconcile import reconcile
from flows.webhook_health import webhook_health
from kommo.clock import SystemClock
from sandbox import running_sandbox
from store.subscriptions import get_subscription
from store.webhook_keys import list_keys
from tasks.errors import NotConnectedError, WebhookHealthFailedError
from tasks.installation import open_database
from tasks.status import fleet_status, org_status
from tests.syncing import connect, quiet_config

pytestmark = pytest.mark.usefixtures("prefect_api")
PUBLIC = "https://hooks.example.com"


async def artifact(key: str) -> str:
    async with get_client() as client:
        found = await client._client.get(f"/artifacts/{key}/latest")
    return str(found.json()["description"])


@pytest.mark.seconds(6)
async def test_w5_the_life_of_a_subscription(installation: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOMMO_WEBHOOK_URL", PUBLIC)
    settings = installation.model_copy(update={"webhook_url": PUBLIC})
    async with running_sandbox(quiet_config(accounts=2, leads=4, contacts=2, companies=2)) as kommo:
        kommo.world.move_clock(
            kommo.world.clock() - 3_600
        )  # an hour ago: what changes now is no news any more
        kommo.world.webhooks.configure(paused=True)
        access = kommo.accounts[0]
        await connect("acme", access, settings)
        await connect("plain", kommo.accounts[1], settings, token=kommo.accounts[1].plain_token)
        hooks = kommo.account("acme").webhooks
        (hook,) = hooks
        assert hook["destination"].startswith(f"{PUBLIC}/api/webhooks/kommo/")
        lead = next(iter(kommo.account("acme").entities["leads"]))["id"]
        kommo.change("acme", "update_record", entity="leads", id=lead, values={"name": "Nobody heard"})
        hooks.change(hook["id"], disabled=True)

        since = SystemClock().now() - timedelta(hours=2)
        compared = await reconcile("acme", since)
        assert (compared.total("changes") >= 1, compared.share) == (True, 0.0)
        assert "had come by webhook (0.0 %)" in await artifact("kommo-webhook-completeness-acme")
        report = await webhook_health()
        assert [(one.org, one.found, one.state) for one in report.orgs] == [
            ("acme", "disabled", "on"),
            ("plain", "unknown", "off"),
        ]
        assert not hook["disabled"]
        assert "1 of 2 subscriptions are on" in await artifact("kommo-webhook-health")

        async with open_database(settings) as database:
            fleet = {row["org"]: row["webhooks"] for row in await fleet_status(database)}
            assert fleet["acme"]["state"] == "on"
            assert fleet["plain"]["state"] == "off"
            assert "administrator" in fleet["plain"]["reason"]
            one = await org_status(database, "acme")
            assert one["webhooks"]["completeness"]["share"] <= 1
            assert len(await list_keys(database, "acme")) == 1
        await disconnect_account("acme")
        assert len(hooks) == 0
        async with open_database(settings) as database:
            subscription = await get_subscription(database, "acme")
            assert subscription is not None
            assert (subscription.state, subscription.key_hash) == ("off", None)
            assert all(key.revoked_at is not None for key in await list_keys(database, "acme"))


async def test_what_cannot_be_looked_at_is_said(installation: Settings) -> None:
    async with running_sandbox(quiet_config(accounts=1)) as kommo:
        await connect("acme", kommo.accounts[0], installation)
    with pytest.raises(NotConnectedError, match="globex"):
        await reconcile("globex")
    report = await webhook_health()
    assert [(one.found, one.state) for one in report.orgs] == [("unknown", "off")]
    assert "KOMMO_WEBHOOK_URL" in (report.orgs[0].reason or "")
    with pytest.raises(WebhookHealthFailedError, match="globex"):
        await webhook_health(["globex"])
