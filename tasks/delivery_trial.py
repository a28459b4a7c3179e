"""One signed event to the product's address, to see whether it takes it: past the outbox, past every rest."""

import uuid
from dataclasses import dataclass

from kommo.clock import Clock
from store.database import Database
from store.endpoint import endpoint_does
from store.outbox import PENDING, OutboxRecord
from tasks.delivery_rules import Verdict, judge
from tasks.endpoint import Endpoint
from tasks.event_types import TEST
from tasks.posting import Poster
from tasks.signing import CONTENT_TYPE, Signer, cloud_event


@dataclass(frozen=True)
class Trial:
    """What came of it.

    Attributes:
        host: where the product takes events.
        event_id: of the event that was sent.
        outcome: `answered`, `timeout`, `broken` or `unreachable`.
        status: HTTP status of the answer.
        seconds: how long it took.
        taken: whether the product took it.
        reason: why not.
        resumed: the address had been resting or gone, and events are sent to it again.
    """

    host: str
    event_id: str
    outcome: str
    status: int | None
    seconds: float
    taken: bool
    reason: str | None
    resumed: bool


async def try_endpoint(database: Database, endpoint: Endpoint, signer: Signer, clock: Clock) -> Trial:
    """Send one event of type `kommo.test`. If it is taken, an address that rests or is gone is used again.

    Args:
        database: The store.
        endpoint: The product's address.
        signer: Signs.
        clock: Source of time.
    """
    now = clock.now()
    event = OutboxRecord(
        id=0,
        event_id=str(uuid.uuid4()),
        type=TEST,
        org="test",
        subject="test",
        payload={"message": "A test of the product's address for events. Nothing has happened."},
        created_at=now,
        state=PENDING,
        attempts=0,
        next_attempt_at=None,
        delivered_at=None,
        last_error=None,
    )
    body = cloud_event(event)
    headers = {"content-type": CONTENT_TYPE, **signer.headers(event.event_id, int(now.timestamp()), body)}
    begun = clock.monotonic()
    async with Poster(endpoint, now=clock.now) as poster:
        posted = await poster.post(headers, body)
    seconds = round(clock.monotonic() - begun, 3)
    judgement = judge(posted)
    taken = judgement.verdict is Verdict.TAKEN
    resumed = taken and await endpoint_does(database, endpoint.key)
    return Trial(
        host=endpoint.host,
        event_id=event.event_id,
        outcome=posted.outcome.value,
        status=posted.status,
        seconds=seconds,
        taken=taken,
        reason=judgement.reason,
        resumed=resumed,
    )
