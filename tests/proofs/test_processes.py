"""R1: several processes share one budget exactly, and use it."""

import asyncio
from itertools import pairwise

import pytest

from blocks.settings import Settings
from sandbox import AccountAccess
from tests.proofs.support import FULL, KOMMO, control, end, kill, sandbox_process, start_kommo
from tests.quick.running import KOMMO as QUICK_KOMMO
from tests.syncing import connect
from tests.turns import measured

pytestmark = [
    pytest.mark.whole_service,
    pytest.mark.proof,
    pytest.mark.timing,
    pytest.mark.seconds(22),
    pytest.mark.usefixtures("prefect_api", "quick"),
]

# At Kommo's own limit it takes longer; twice as much asks for the same exactness, twice as often.
LIMIT = 7 if FULL else 14
PROCESSES = 4
FIELDS = "3000" if FULL else "1000"
COMMAND = (str(KOMMO),) if FULL else QUICK_KOMMO


def _ratio(arrivals: list[float]) -> float:
    """Time taken as a multiple of the shortest that the limit allows."""
    return (arrivals[-1] - arrivals[0] + 1 / LIMIT) / (len(arrivals) / LIMIT)


async def test_r1_four_processes_on_one_account_stay_within_the_limit_and_use_it(
    installation: Settings, prefect_api: str
) -> None:
    dialect = str(installation.database_url and installation.database_url.get_secret_value()).split(":")[0]
    if not FULL and not dialect.startswith("sqlite"):
        pytest.skip("half a minute: on SQLite always, on PostgreSQL with KOMMO_TEST_ROUNDS=full")
    arguments = ["--accounts", "1", "--fields", FIELDS, "--limit", str(LIMIT), "--retry-after", "1"]
    async with sandbox_process(*arguments) as kommo:
        await connect("acme", AccountAccess(**kommo["accounts"][0]), installation)
        await control(kommo["url"], "requests", "DELETE")
        processes = [
            await start_kommo("sync", "acme", "--json", api=prefect_api, per_second=LIMIT, command=COMMAND)
            for _ in range(PROCESSES)
        ]
        try:
            reports = await asyncio.gather(*(end(process) for process in processes))
        finally:
            for process in processes:
                await kill(process)
        windows = await control(kommo["url"], "windows")
        requests = await control(kommo["url"], "requests")
    fullest = max(*windows["max_per_account"].values(), *windows["max_per_ip"].values())
    arrivals = sorted(entry["arrived"] for entry in requests)
    # Each sync begins with the account; while some are still importing Python there is less to send than may be.
    began = [entry["arrived"] for entry in requests if entry["path"] == "/api/v4/account"]
    assert len(began) == PROCESSES
    whole, together = _ratio(arrivals), _ratio([arrival for arrival in arrivals if arrival >= max(began)])
    gaps = sorted((later - earlier, earlier - arrivals[0]) for earlier, later in pairwise(arrivals))
    print(  # noqa: T201 - the figures that this proof is about; shown with -s
        f"\n{dialect}: {len(arrivals)} requests of {PROCESSES} processes in {windows['span']:.2f} s: "
        f"{whole:.3f} of the shortest possible time, {together:.3f} from {max(began) - arrivals[0]:.1f} s on, "
        f"when all had begun; fullest second {fullest}; "
        f"longest gaps {', '.join(f'{gap:.3f} s at {at:.1f}' for gap, at in gaps[-8:])}"
    )
    assert {report["state"] for report in reports} == {"completed"}
    assert windows["total"] >= PROCESSES * (40 if FULL else 20)
    statuses = {entry["status"] for entry in requests}
    assert statuses <= {200, 204, 404, 429}
    assert windows["max_per_account"] == {"acme": fullest}
    with measured():
        # A request that a busy machine holds up on its way may arrive with the next ones; what was granted never may:
        # tests/store/test_store_budget.py.
        assert fullest <= LIMIT
        assert 429 not in statuses
        # 1.05 is the bar on a machine that does nothing else; the default round only catches a budget left unused.
        assert together <= (1.05 if FULL else 2.0)
