"""What must hold after a whole fleet was refreshed or synced: nobody twice, nobody forgotten, the same as Kommo has."""

import asyncio
from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import select

from store.database import Database
from store.tables import (
    Connection,
    CrmUser,
    CustomField,
    Pipeline,
    PipelineStatus,
    SyncRun,
    SyncTurnRow,
    table_of,
)
from tests.proofs.fleet_seed import ask

_AT_A_TIME = 250
_ASKED_AT_A_TIME = 8


async def check_refresh(database: Database, url: str, orgs: dict[str, str]) -> dict[str, Any]:
    """Every connection was refreshed once, and points to a pair that is alive."""
    log = await ask(url, "oauth")
    made = Counter(call["account"] for call in log["calls"] if call["issued"])
    alive = {one["fingerprint"] for one in (await ask(url, "alive", "POST", {}))["alive"]}
    columns = table_of(Connection).c
    async with database.read() as connection:
        rows = (await connection.execute(select(columns.org, columns.token_fingerprint, columns.state))).all()
    return {
        "calls": len(log["calls"]),
        "refreshed_once": sum(made[name] == 1 for name in orgs.values()),
        "not_once": {name: made[name] for name in orgs.values() if made[name] != 1},
        "points_to_a_dead_pair": [row.org for row in rows if row.token_fingerprint not in alive],
        "not_connected": [row.org for row in rows if row.state != "connected"],
    }


async def check_sync(database: Database, url: str, orgs: dict[str, str]) -> dict[str, Any]:
    """Every org has one run of its own, no turn is held, and the snapshots hold what the sandbox holds."""
    run, turn = table_of(SyncRun).c, table_of(SyncTurnRow).c
    async with database.read() as connection:
        runs = Counter((await connection.execute(select(run.org).where(run.state == "completed"))).scalars())
        held = len((await connection.execute(select(turn.org).where(turn.until > 0))).all())
    differing: list[str] = []
    asked = asyncio.Semaphore(_ASKED_AT_A_TIME)

    async def compare(org: str, ours: set[tuple[Any, ...]]) -> None:
        async with asked:
            if ours != _theirs(await ask(url, f"state?account={orgs[org]}")):
                differing.append(org)

    names = list(orgs)
    for start in range(0, len(names), _AT_A_TIME):
        some = names[start : start + _AT_A_TIME]
        ours = await _ours(database, some)
        await asyncio.gather(*(compare(org, ours[org]) for org in some))
    return {
        "synced": sum(runs[org] >= 1 for org in orgs),
        "synced_twice": [org for org in orgs if runs[org] > 1],
        "turns_held": held,
        "differing": differing,
    }


async def _ours(database: Database, orgs: list[str]) -> dict[str, set[tuple[Any, ...]]]:
    found: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    pipeline, status = table_of(Pipeline).c, table_of(PipelineStatus).c
    field, user = table_of(CustomField).c, table_of(CrmUser).c
    queries = (
        ("pipeline", select(pipeline.org, pipeline.pipeline_id, pipeline.name), pipeline),
        ("status", select(status.org, status.pipeline_id, status.status_id, status.name), status),
        ("field", select(field.org, field.kind, field.field_id, field.name), field),
        ("user", select(user.org, user.user_id, user.name), user),
    )
    async with database.read() as connection:
        for kind, query, columns in queries:
            rows = await connection.execute(query.where(columns.org.in_(orgs), columns.valid_to.is_(None)))
            for org, *rest in rows:
                found[org].add((kind, *rest))
    return found


def _theirs(state: dict[str, Any]) -> set[tuple[Any, ...]]:
    found: set[tuple[Any, ...]] = {("pipeline", one["id"], one["name"]) for one in state["pipelines"]}
    for one in state["pipelines"]:
        found |= {("status", one["id"], s["id"], s["name"]) for s in one["_embedded"]["statuses"]}
    for ours, theirs in (("lead", "leads"), ("contact", "contacts"), ("company", "companies")):
        found |= {("field", f"{ours}_fields", one["id"], one["name"]) for one in state[f"{theirs}_fields"]}
    return found | {("user", one["id"], one["name"]) for one in state["users"]}
