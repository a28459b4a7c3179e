"""R3: faults that pass by themselves leave no trace in what is stored."""

from collections import Counter

import pytest

from blocks.settings import Settings
from flows.full_sync import full_crm_sync
from sandbox import running_sandbox
from tests.proofs.support import FULL, rounds
from tests.syncing import connect, quiet_config, stored

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("prefect_api")]

FAULTS: dict[str, dict[str, float]] = {
    "slow": {"delay": 0.05},
    "truncate": {},
    "500": {},
    "429": {"retry_after": 0.05},
    "502": {},
    "reset": {},
}
RATE = 0.3 / len(FAULTS)


@pytest.mark.seconds(4)
async def test_r3_a_sync_under_thirty_percent_mixed_faults_ends_with_the_same_rows(
    installation: Settings,
) -> None:
    struck: Counter[str] = Counter()
    async with running_sandbox(quiet_config(accounts=1, fields=800)) as kommo:
        account = kommo.accounts[0]
        await connect("untroubled", account, installation)
        await full_crm_sync("untroubled")
        wanted = await stored("untroubled", installation, raw=True)
        assert all(wanted[kind] for kind in wanted)
        requests = 0
        for number in range(rounds(10)):
            org = f"troubled-{number}"
            await connect(org, account, installation)
            kommo.world.log.entries.clear()
            kommo.world.faults.reseed(number)
            rules = [
                kommo.world.faults.add(kind=kind, rate=RATE, **options) for kind, options in FAULTS.items()
            ]
            report = await full_crm_sync(org)
            kommo.world.faults.rules.clear()
            struck.update({rule.kind: rule.struck for rule in rules})
            requests += len(kommo.world.log.entries)
            assert report.state == "completed"
            found = await stored(org, installation, raw=True)
            for kind, items in wanted.items():
                assert found[kind] == items, (number, kind)
    print(f"\n{struck.total()} faults in {requests} requests: {dict(struck)}")  # noqa: T201 - shown with -s
    assert struck.total() >= 0.15 * requests
    assert not FULL or all(struck[kind] for kind in FAULTS)
