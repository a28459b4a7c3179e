"""How much waits in the outbox is counted without going through all that was ever told."""

import re
from typing import Any

from sqlalchemy import event, text

from store.database import Database
from store.gauges import read_gauges
from tests.outbox.receiver import Receiver, Reply
from tests.outbox.support import run, tell


async def test_what_waits_and_what_was_given_up_is_counted_by_indexes_that_hold_nothing_else(
    database: Database, product: Receiver
) -> None:
    product.behave = lambda received: Reply(400 if received.event["subject"] == "lead:2" else 200)
    for subject in ("lead:1", "lead:2", "lead:3"):
        await tell(database, "acme", subject, 0)
    await run(database, product.url, attempts=1)
    await tell(database, "acme", "lead:1", 1, 2)
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if re.search(r"FROM \S*outbox\b", statement):
            seen.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    found = await read_gauges(database)
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)
    assert found.outbox == {"pending": 2, "dead": 1}
    assert found.outbox_oldest_at is not None
    assert seen
    async with database.read() as connection:
        if database.dialect == "postgresql":
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        for statement, parameters in seen:
            explain = "EXPLAIN " if database.dialect == "postgresql" else "EXPLAIN QUERY PLAN "
            plan = str((await connection.exec_driver_sql(explain + statement, parameters)).all())
            assert "ix_outbox_waiting" in plan or "ix_outbox_dead" in plan or "ix_outbox_held" in plan, plan
