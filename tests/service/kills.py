"""Kill one part at a time under load; say what each costs; prove at the end that nothing acknowledged is lost."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.service.house import House
from tests.service.load import ACTIONS, WEBHOOKS, Load, running_load
from tests.service.proving import faults_of, settled
from tests.service.watch import Watch, watching

QUIET = 60.0
"""Seconds of load before the first kill: what is normal on this machine."""
CALM = 20.0
PATIENCE = 420.0
_LONGEST_RUN = 150.0  # seconds; whoever lingers does so for one minute


@dataclass(frozen=True)
class Kill:
    """What is killed, and how."""

    what: str
    unit: str
    how: signal.Signals = signal.SIGKILL


def _kills(house: House) -> list[Kill]:
    return [
        Kill("a worker, kill -9", "kommo-worker@1"),
        Kill("the API server of the workers, kill -9", f"kommo-prefect-api@{house.ports['api']}"),
        Kill("the background services, kill -9", "kommo-prefect-services"),
        Kill("the gateway, kill -9", "kommo-gateway"),
        Kill("Redis, kill -9", "redis"),
        Kill("PostgreSQL, immediate shutdown", "postgres", signal.SIGQUIT),
    ]


async def try_kills(house: House, share: float, only: Sequence[str]) -> dict[str, Any]:
    """All kills, one after the other, under load; `faults` is empty if nothing acknowledged was lost.

    Args:
        house: The installation.
        share: Of the full load.
        only: Words by which the kills are chosen; without any, all.
    """
    kills = [kill for kill in _kills(house) if not only or any(word in kill.what.lower() for word in only)]
    rows: list[dict[str, Any]] = []
    async with watching(house) as watch:
        async with running_load(house, share) as load:
            begun = time.time()
            await asyncio.sleep(QUIET)
            bounds = {
                name: max(10.0, 1.5 * watch.oldest(name, begun + QUIET / 2)) for name in ("backlog", "outbox")
            }
            normal = {name: round(watch.oldest(name, begun + QUIET / 2), 1) for name in bounds}
            house.say(f"under load, nothing killed: oldest of the backlog and of the outbox {normal} s")
            processes = _processes(house)
            for kill in kills:
                rows.append(await _one(house, load, watch, kill, bounds))
                house.say("  ".join(f"{key}: {value}" for key, value in rows[-1].items()))
        house.say("the load has ended; what waits is worked off")
        await settled(house)
    faults = await faults_of(house, load)
    runs = await _runs(house, begun)
    return {
        "load": {
            "webhooks a second": WEBHOOKS * share,
            "actions a second": ACTIONS * share,
            "changes made": load.made,
            "actions": len(load.keys),
            "runs asked for": dict(load.asked),
        },
        "normal": normal,
        "processes": processes,
        "kills": rows,
        "flow runs": dict(Counter(f"{run['name_of_flow']}: {run['state_type']}" for run in runs)),
        "still called running": dict(Counter(run["name_of_flow"] for run in runs if _is_stuck(run))),
        "faults": faults,
    }


def _processes(house: House) -> dict[str, str]:
    """Memory and processor of each unit, with the runs that a worker has started."""
    found = {}
    for name in house.supervisor.services:
        resident, seconds = house.supervisor.used(name)
        found[name] = f"{resident:.0f} MiB, {seconds:.0f} s of processor"
    return found


async def _one(
    house: House, load: Load, watch: Watch, kill: Kill, bounds: dict[str, float]
) -> dict[str, Any]:
    """One kill, until all is well again."""
    service = house.supervisor.services[kill.unit]
    starts, moment = len(service.starts), time.time()
    house.say(f"killing {kill.what}")
    house.supervisor.kill(kill.unit, kill.how)
    recovered = None
    while recovered is None and time.time() - moment < PATIENCE:
        await asyncio.sleep(1)
        if len(service.starts) > starts:
            recovered = watch.recovered(moment, bounds, CALM)
    while watch.all_heard(moment) is None and time.time() - moment < PATIENCE:  # noqa: ASYNC110 - looks happen anyway
        await asyncio.sleep(1)
    runs = [run for run in await _runs(house, moment - 60) if _over(run, moment)]
    return {
        "killed": kill.what,
        "all well after": None if recovered is None else round(recovered, 1),
        "gateway away": watch.down("gateway", moment),
        "api away": watch.down("api", moment),
        "other api away": watch.down("other api", moment),
        "oldest in backlog": round(watch.oldest("backlog", moment), 1),
        "oldest in outbox": round(watch.oldest("outbox", moment), 1),
        "actions refused": dict(Counter(what for at, what in load.refused if at >= moment)),
        "webhooks not taken": await _not_taken(house, moment),
        "workers heard again after": watch.all_heard(moment),
        "runs crashed or failed": dict(
            Counter(
                f"{run['name_of_flow']} {run['state_name']}"
                for run in runs
                if run["state_type"] in {"CRASHED", "FAILED"}
            )
        ),
    }


def _is_stuck(run: dict[str, Any]) -> bool:
    """Whether Prefect calls a run running that cannot be any more."""
    return bool(run["state_type"] == "RUNNING") and time.time() - run["start_time"].timestamp() > _LONGEST_RUN


def _over(run: dict[str, Any], moment: float) -> bool:
    """Whether a run ended after a moment."""
    ended = run["end_time"]
    return ended is not None and _unix(ended) >= moment


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def _not_taken(house: House, moment: float) -> dict[str, int]:
    """Attempts of webhooks that were answered badly, by status; 0 is no answer within two seconds."""
    deliveries = (await house.steer("webhooks?limit=1000000", "GET"))["deliveries"]
    return dict(
        Counter(
            str(attempt["status"])
            for delivery in deliveries
            for attempt in delivery["attempts"]
            if attempt["moment"] >= moment and not 100 <= attempt["status"] <= 299
        )
    )


async def _runs(house: House, moment: float) -> list[dict[str, Any]]:
    """All flow runs that began since, from Prefect's own database: its API gives 200 at a time."""
    rows = await house.sql(
        "select flow.name as name_of_flow, state_type::text, state_name, start_time, end_time"
        " from flow_run join flow on flow.id = flow_run.flow_id where start_time >= to_timestamp($1)",
        moment,
        database="prefect",
    )
    return [dict(row) | {"end_time": row["end_time"] and row["end_time"].isoformat()} for row in rows]
