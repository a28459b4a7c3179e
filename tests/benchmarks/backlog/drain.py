"""How fast a full backlog is worked off: `python -m tests.benchmarks.backlog.drain [--events N] [--url URL]`.

Two drains, each of events that are in the inbox already when it begins:

- *reading*: 100 000 events over 20 000 leads in 50 orgs; a sandbox that does not throttle answers for the API. The bar:
  at most distinct/250 + 1 requests for each org.
- *plain*: 100 000 events that need no request (messages, notes). The bar: 5 000 events/s.

The database is SQLite in a temporary directory, or the one that --url names (in a schema of its own).
"""

import argparse
import asyncio
import cProfile
import json
import pstats
import random
import shutil
import tempfile
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from sandbox import Sandbox, SandboxConfig, running_sandbox
from store.connections import put_connection
from store.database import Database
from store.inbox import NewDelivery, NewEvent, save_deliveries
from tasks.backlog import BacklogReport, drain
from tasks.backlog_turn import Options
from tests.syncing import UNTHROTTLED
from tests.webhooks.backlog_support import SandboxClients, session_of

ORGS = 50
LEADS = 400
_PER_SAVE = 1000


def lead_event(dice: random.Random, lead: int, moment: datetime) -> NewEvent:
    """A change of a lead, of the size that Kommo sends."""
    action = dice.choice(["update", "update", "update", "status", "responsible"])
    payload = {
        "id": str(lead),
        "name": f"Deal {lead}",
        "status_id": "142",
        "old_status_id": "67548605",
        "price": str(dice.randrange(100_000)),
        "responsible_user_id": "11087001",
        "last_modified": str(int(moment.timestamp())),
        "modified_user_id": "11087001",
        "created_user_id": "11087001",
        "date_create": "1726572752",
        "pipeline_id": "8572500",
        "account_id": "31234567",
        "custom_fields": [
            {"id": "1016236", "name": "Client type", "values": [{"value": "VIP", "enum": "867970"}]},
            {"id": "1246491", "name": "Date", "values": ["1725915600"]},
        ],
        "created_at": "1726572752",
        "updated_at": str(int(moment.timestamp())),
    }
    return NewEvent("leads", action, str(lead), None, moment, uuid.uuid4().hex, payload)


def message_event(dice: random.Random, moment: datetime) -> NewEvent:
    """A message of a customer."""
    number = uuid.UUID(int=dice.getrandbits(128))
    payload = {
        "id": str(number),
        "chat_id": f"54caee02-{dice.randrange(1000):04d}",
        "talk_id": "191",
        "contact_id": "17611273",
        "text": "Hello, when can you deliver?",
        "created_at": str(int(moment.timestamp())),
        "element_type": "2",
        "entity_type": "lead",
        "element_id": "15318175",
        "entity_id": "15318175",
        "type": "incoming",
        "author": {"id": "1db2f5cc-0000", "type": "external", "name": "Ann"},
        "origin": "waba",
    }
    return NewEvent("messages", "add", str(number), None, moment, uuid.uuid4().hex, payload)


async def fill(database: Database, orgs: list[str], events: int, leads: dict[str, list[int]] | None) -> None:
    """Put events into the inbox, one to a delivery, as Kommo sends them."""
    dice, begun = random.Random(1), datetime.now(UTC) - timedelta(hours=1)
    waiting: list[NewDelivery] = []
    for number in range(events):
        org, moment = orgs[number % len(orgs)], begun + timedelta(milliseconds=number)
        event = (
            message_event(dice, moment)
            if leads is None
            else lead_event(dice, dice.choice(leads[org]), moment)
        )
        waiting.append(
            NewDelivery(
                f"{number:09d}{uuid.uuid4().hex[:8]}", org, None, "key", moment, None, {}, None, b"", [event]
            )
        )
        if len(waiting) == _PER_SAVE:
            await save_deliveries(database, waiting)
            waiting = []
    await save_deliveries(database, waiting)


async def measure(
    database: Database,
    sandbox: Sandbox,
    orgs: list[str],
    events: int,
    leads: dict[str, list[int]] | None,
    profile: Path | None,
) -> dict[str, Any]:
    """Fill, drain, and say how it went."""
    await fill(database, orgs, events, leads)
    if database.dialect == "postgresql":
        async with database.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text("ANALYZE"))
    sandbox.world.log.entries.clear()
    session = session_of(database, SandboxClients(sandbox), options=Options())
    profiler = cProfile.Profile() if profile else None
    begun, cpu = time.perf_counter(), time.process_time()
    if profiler:
        profiler.enable()
    report: BacklogReport = await drain(session, 0.0)
    if profiler:
        profiler.disable()
        pstats.Stats(profiler).dump_stats(str(profile))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    calls = Counter(entry.account for entry in sandbox.world.log.entries)
    assert report.events == events, report
    assert not report.backlog, report.backlog
    return {
        "database": database.dialect,
        "events": events,
        "seconds": round(seconds, 2),
        "cpu_seconds_with_sandbox": round(cpu, 2),
        "events_per_second": round(events / seconds),
        "turns": report.turns,
        "told": sum(report.told.values()),
        "requests": sum(calls.values()),
        "most_requests_of_one_org": max(calls.values(), default=0),
    }


async def run(url: str | None, events: int, only: str | None, profile: Path | None) -> list[dict[str, Any]]:
    """Both drains on one database each."""
    results = []
    config = SandboxConfig(limits=UNTHROTTLED, accounts=ORGS, leads=LEADS, contacts=1, companies=1)
    for kind in ("reading", "plain"):
        if only not in {None, kind}:
            continue
        folder, schema = Path(tempfile.mkdtemp(prefix="backlog-")), f"bench_{uuid.uuid4().hex[:12]}"
        try:
            async with (
                running_sandbox(config) as sandbox,
                Database.open(url or f"sqlite:///{folder}/bench.db", schema) as database,
            ):
                await database.ensure()
                leads = await connect(database, sandbox)
                result = await measure(
                    database, sandbox, list(leads), events, leads if kind == "reading" else None, profile
                )
                if kind == "reading":
                    assert result["most_requests_of_one_org"] <= LEADS / 250 + 1
                results.append({"drain": kind, **result})
                if url:
                    async with database.begin() as connection:
                        await connection.execute(text(f'DROP SCHEMA "{schema}" CASCADE'))
        finally:
            shutil.rmtree(folder)
    return results


async def connect(database: Database, sandbox: Sandbox) -> dict[str, list[int]]:
    """An org for each account of the sandbox, with as many leads each; their ids."""
    leads: dict[str, list[int]] = {}
    for access in sandbox.accounts:
        account = sandbox.account(access.subdomain)
        held = account.entities["leads"]
        pattern = next(iter(held))
        for number in range(LEADS - len(held)):
            held.add(dict(pattern) | {"id": 90_000_000 + number, "name": f"Deal {number}"})
        leads[access.subdomain] = [lead["id"] for lead in held][:LEADS]
        await put_connection(
            database,
            org=access.subdomain,
            block_name=f"org-{access.subdomain}",
            host=access.host,
            account_id=access.account_id,
            token_kind="long_lived",
            now=datetime.now(UTC),
        )
    return leads


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--url", help="a PostgreSQL database; without it, SQLite")
    parser.add_argument("--only", choices=["reading", "plain"])
    parser.add_argument("--profile", type=Path)
    asked = parser.parse_args()
    print(json.dumps(asyncio.run(run(asked.url, asked.events, asked.only, asked.profile)), indent=2))


if __name__ == "__main__":
    main()
