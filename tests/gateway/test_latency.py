"""How long the product waits for an action while the same account is being synced."""

import asyncio
import statistics
import time
from typing import Any

import pytest

from blocks.settings import Settings
from kommo.budget import Lane
from kommo.catalogue import CATALOGUE
from sandbox import running_sandbox
from store.connections import get_connection
from tasks.installation import budget_of
from tests.actions.support import AccessClients, access_of, join
from tests.gateway.doors import running_doors
from tests.proofs.support import rounds
from tests.syncing import quiet_config
from tests.turns import measured

_PER_SECOND = 7.0
_READERS = 4


@pytest.mark.timing
@pytest.mark.proof
@pytest.mark.seconds(4)
async def test_r1_an_action_overtakes_a_running_sync(hook_settings: Settings, capsys: Any) -> None:
    settings = hook_settings.model_copy(update={"requests_per_second": _PER_SECOND})
    async with (
        running_sandbox(quiet_config(accounts=1, leads=2, contacts=1, companies=1, talks=1)) as kommo,
        running_doors(settings) as doors,
    ):
        access = access_of(kommo)
        await join(doors.database, access)
        connection = await get_connection(doors.database, "acme")
        budget = budget_of(doors.database, settings)
        acting, reading = AccessClients(access, budget), AccessClients(access, budget, Lane.SYNC)
        doors.services.actions.clients = acting
        stop = asyncio.Event()

        async def read() -> None:
            async with reading.use(connection) as client:
                while not stop.is_set():
                    await client.read_all(CATALOGUE["lead_custom_fields"])

        readers = [asyncio.create_task(read()) for _ in range(_READERS)]
        await asyncio.sleep(0.5)  # the sync has the budget to itself, and uses all of it
        body = {"text": "Call Ann", "complete_till": int(time.time()) + 86_400}
        took: list[float] = []
        for number in range(4 * rounds(80)):
            began = time.perf_counter()
            answer = await doors.post(
                "/api/v1/orgs/acme/tasks",
                body | {"text": f"Call {number}"},
                headers={"Idempotency-Key": f"k{number}"},
            )
            took.append(time.perf_counter() - began)
            assert answer.status_code == 201, answer.text
            await asyncio.sleep(0.25)
        read_before, sent = reading.requests_sent, acting.requests_sent
        stop.set()
        await asyncio.gather(*readers)
        await acting.aclose()
        await reading.aclose()
    median, worst = statistics.median(took), sorted(took)[int(len(took) * 0.99)]
    with capsys.disabled():
        print(  # noqa: T201 - the figure is the point
            f"\nPOST /tasks beside a sync, {len(took)} times: median {median * 1000:.0f} ms, "
            f"p99 {worst * 1000:.0f} ms, {sent / len(took):.1f} requests each (a slot is {1000 / _PER_SECOND:.0f} ms)"
        )
    assert read_before > len(took), "the sync went on meanwhile"
    with measured():
        assert median < 1.0
