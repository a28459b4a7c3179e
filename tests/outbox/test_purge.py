"""What a purge leaves of the outbox."""

from datetime import UTC, datetime

from store.database import Database
from store.purge import purge_org
from tests.outbox.receiver import Received, Receiver, Reply
from tests.outbox.support import outbox, run, tell


async def test_a_purge_leaves_only_what_is_still_to_be_told(database: Database, product: Receiver) -> None:
    def behave(received: Received) -> Reply:
        return Reply(400 if received.event["subject"] == "lead:2" else 200)

    product.behave = behave
    for org in ("acme", "globex"):
        await tell(database, org, "lead:1", 0)
        await tell(database, org, "lead:2", 0)
    await run(database, product.url, attempts=1)
    await tell(database, "acme", "acme", 0, kind="integration_disconnected")
    removed = await purge_org(database, "acme", now=datetime.now(UTC))
    assert removed["outbox"] == 2, "one that was told, and one that was given up"
    left = [(event.org, event.type, event.state) for event in await outbox(database)]
    assert left == [
        ("globex", "test", "delivered"),
        ("globex", "test", "dead"),
        ("acme", "integration_disconnected", "pending"),
    ]
