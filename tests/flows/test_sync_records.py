"""The flow `sync-records` on a real Prefect engine."""

import pytest

from blocks.settings import Settings
from flows.sync_records import sync_records
from sandbox import running_sandbox
from store.record_sync import RecordMode, count_records
from tasks.errors import RecordsFailedError
from tasks.installation import open_database
from tasks.sync_records import UnknownKindOfRecordsError
from tests.syncing import connect, quiet_config

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.mark.seconds(3)
async def test_the_flow_reads_kinds_and_one_that_fails_does_not_stop_the_others(
    installation: Settings,
) -> None:
    async with running_sandbox(quiet_config(accounts=1, leads=20)) as kommo:
        account = kommo.accounts[0]
        await connect("acme", account, installation, token=account.plain_token)
        with pytest.raises(UnknownKindOfRecordsError, match="'deals'"):
            await sync_records("acme", ["deals"])
        with pytest.raises(RecordsFailedError, match=r"users: .*may not") as caught:
            await sync_records("acme", ["users", "leads", "lead_tags"], RecordMode.FULL)
        report = caught.value.report
        states = {one.kind: one.state for one in report.kinds}
        assert states == {"leads": "complete", "lead_tags": "complete", "users": "failed"}
        async with open_database(installation) as database:
            counts = {one.entity: one for one in await count_records(database, "acme")}
    assert counts["leads"].present == 20
    assert counts["users"].sync is not None
    assert "may not" in (counts["users"].sync.reason or "")
