"""The flow `webhook-backlog` on a real Prefect engine."""

import pytest

from blocks.settings import Settings
from flows.parameters import parse_shard
from flows.webhook_backlog import webhook_backlog
from sandbox import running_sandbox
from tasks.installation import open_database
from tests.syncing import connect, quiet_config
from tests.webhooks.backlog_support import deliver, happening, mirror

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.mark.seconds(3)
async def test_the_flow_works_off_what_is_there_with_the_orgs_credentials(installation: Settings) -> None:
    async with running_sandbox(quiet_config(accounts=1, leads=3)) as kommo:
        await connect("acme", kommo.accounts[0], installation)
        [lead, *_] = [known["id"] for known in kommo.account("acme").entities["leads"]]
        async with open_database(installation) as database:
            await deliver(database, "acme", happening("leads", "add", lead), happening("talks", "add", 191))
            report = await webhook_backlog("0s")
            assert (report.events, report.requests) == (2, 1)
            assert await mirror(database, "acme") == {lead: "present"}
            await deliver(database, "acme", happening("leads", "update", lead))
            assert (await webhook_backlog("0s", ["other"])).events == 0
            assert (await webhook_backlog("0s", ["acme"], "1/1")).events == 1
            assert report.told == {"kommo.lead.created": 1, "kommo.talk.created": 1}


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "1/4/2"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="first of four"):
        parse_shard(text)


def test_a_shard_is_counted_from_one_by_people() -> None:
    assert [parse_shard("1/4"), parse_shard("4/4")] == [(0, 4), (3, 4)]
