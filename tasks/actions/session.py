"""What actions are performed with; opened once per process or flow run, closed by `async with`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from blocks.settings import Settings
from kommo.clock import Clock
from store.database import Database


@dataclass(frozen=True)
class Options:
    """How actions are performed; all in seconds but `most_sends`.

    Attributes:
        patience: How long `perform` waits for an outcome.
        lease: How long an action belongs to who works on it: what a killed process holds up for so long.
        send_within: Nothing of a lease is sent later than so long after it was taken or renewed.
        absence_after: What cannot be found counts as not done only so long after it was sent: Kommo may be slow.
        give_up_after: An action that could not be sent for so long is failed: a message from yesterday helps nobody.
        most_sends: How often one action is sent at most.
    """

    patience: float = 20.0
    lease: float = 90.0
    send_within: float = 60.0
    absence_after: float = 30.0
    give_up_after: float = 900.0
    most_sends: int = 5


class ActionSession:
    """What actions are performed with; safe for many at once, and cheap until it is used."""

    def __init__(self, database: Database, clock: Clock, options: Options) -> None:
        self.database = database
        self.clock = clock
        self.options = options


@asynccontextmanager
async def open_action_session(
    settings: Settings,
    *,
    database: Database | None = None,
    clock: Clock | None = None,
    options: Options | None = None,
) -> AsyncIterator[ActionSession]:
    """A session for as long as the block lasts: in the gateway as long as the process, in a flow as long as its run.

    Args:
        settings: This installation.
        database: An open database; without one it opens its own.
        clock: Source of time.
        options: How actions are performed.
    """
    raise NotImplementedError
    yield
