"""What the tests of the delivery share: events in the outbox, a session without Prefect, how the outbox stands."""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from kommo.clock import SystemClock
from store.database import Database
from store.outbox import OutboxEvent, OutboxRecord, add_events, list_outbox
from tasks.deliver import DeliverySession, deliver
from tasks.deliver_org import Options
from tasks.delivery_report import DeliveryReport
from tasks.endpoint import parse_endpoint
from tasks.signing import Signer

SECRET = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
FAST = Options(poll=0.02, timeout=2.0)


async def tell(database: Database, org: str, subject: str, *numbers: int, kind: str = "test") -> list[str]:
    """Write events of one subject into the outbox; their ids."""
    return await tell_all(database, [OutboxEvent(kind, org, subject, {"n": number}) for number in numbers])


async def tell_all(database: Database, events: Sequence[OutboxEvent]) -> list[str]:
    """Write events into the outbox, in one transaction; their ids."""
    async with database.begin() as connection:
        await add_events(connection, events, datetime.now(UTC))
    return [event.event_id for event in events]


def round_of(number: int, orgs: int, subjects: Sequence[str]) -> list[OutboxEvent]:
    """Event number so and so of each subject of some orgs."""
    return [
        OutboxEvent("test", f"org-{org}", subject, {"n": number})
        for org in range(orgs)
        for subject in subjects
    ]


def session_of(
    database: Database, url: str, *, options: Options = FAST, secret: SecretStr = SECRET, **more: Any
) -> DeliverySession:
    """A session as the flow makes it."""
    return DeliverySession(
        database=database,
        endpoint=parse_endpoint(SecretStr(url), allow_loopback=True),
        signer=Signer(secret),
        clock=SystemClock(),
        owner=uuid.uuid4().hex,
        options=replace(options, **more),
    )


async def run(database: Database, url: str, linger: float = 0.0, **more: Any) -> DeliveryReport:
    """Deliver what is due."""
    return await deliver(session_of(database, url, **more), linger)


async def outbox(database: Database) -> list[OutboxRecord]:
    """All events, in their order."""
    return await list_outbox(database, limit=1_000_000)


async def states(database: Database) -> dict[str, int]:
    """How many events there are in each state."""
    return dict(Counter(event.state for event in await outbox(database)))


async def hurry(database: Database) -> None:
    """Let every backoff and every rest be over."""
    from sqlalchemy import update

    from store.tables import OutboxEndpointRow, OutboxRow, table_of

    rows, endpoints = table_of(OutboxRow), table_of(OutboxEndpointRow)
    async with database.begin() as connection:
        waiting = update(rows).where(rows.c.next_attempt_at.is_not(None))
        await connection.execute(waiting.values(next_attempt_at=datetime(2020, 1, 1, tzinfo=UTC)))
        await connection.execute(update(endpoints).values(rests_until=0.0, probe_until=0.0))
