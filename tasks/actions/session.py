"""What actions are performed with; opened once per process or flow run, closed by `async with`."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from blocks.settings import Settings
from kommo.clock import Clock, SystemClock
from kommo.transport import TOTAL_TIMEOUT
from store.database import Database
from tasks.actions.clients import ActionClients, Clients
from tasks.actions.facts import Facts
from tasks.actions.items import Item
from tasks.installation import open_database
from tasks.session import process_name


@dataclass(frozen=True)
class Options:
    """How actions are performed; all in seconds but `most_sends`.

    Attributes:
        patience: How long `perform` waits for an outcome.
        work_within: How long an action is worked on after that, before it is handed back to whoever comes next.
        lease: How long an action belongs to who works on it: what a killed process holds up for so long.
        send_within: Nothing is sent later than so long after it was marked as sent.
        longest_request: How long a request may take.
        absence_after: What cannot be found counts as not done only so long after it was sent: Kommo may be slow.
        give_up_after: An action that could not be sent for so long is failed: a message from yesterday helps nobody.
        look_again: An unknown action is looked up again after so long, ever more rarely.
        most_sends: How often one action is sent at most.
        poll: The longest pause between two looks.
        finish: How long actions under way have to end when the session is closed; then they are handed back.
    """

    patience: float = 20.0
    work_within: float = 75.0
    lease: float = 90.0
    send_within: float = 40.0
    longest_request: float = TOTAL_TIMEOUT
    absence_after: float = 30.0
    give_up_after: float = 900.0
    look_again: float = 60.0
    most_sends: int = 5
    poll: float = 1.0
    finish: float = 5.0

    def until_absent(self, one: Item, clock: Clock) -> float:
        """Seconds until an action that cannot be found counts as not done; 0 or less if it does already."""
        if one.answered:
            return 0.0
        if one.ended is not None:
            return one.ended + self.absence_after - clock.monotonic()
        # Another worker has marked it as sent, and may have sent it as late as it was allowed to.
        sent_at = one.sent_at or one.held.record.created_at
        latest = self.send_within + self.longest_request + self.absence_after
        return latest - (clock.now() - sent_at).total_seconds()


class ActionSession:
    """What actions are performed with; safe for many at once, and cheap until it is used.

    Args:
        database: An open database.
        clients: Where clients come from.
        clock: Source of time.
        owner: The name of this process; whose the actions are that it works on.
        options: How actions are performed.
    """

    def __init__(
        self,
        *,
        database: Database,
        clients: Clients,
        clock: Clock,
        owner: str,
        options: Options | None = None,
    ) -> None:
        self.database = database
        self.clients = clients
        self.clock = clock
        self.options = options or Options()
        self.facts = Facts(database, clock)
        self._owner = owner
        self._under_way: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"ActionSession({self._owner!r})"

    def new_owner(self) -> str:
        """A name for one piece of work, which nobody else has."""
        return f"{self._owner}:{secrets.token_hex(4)}"

    def seconds(self) -> float:
        """Seconds since 1970, for the store."""
        return self.clock.now().timestamp()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let work go on by itself, also when whoever asked for it is gone."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def aclose(self) -> None:
        """Let what is under way end; what does not is handed back, to be settled by whoever comes next."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self.options.finish)
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


async def all_of(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    """Like `asyncio.gather`, but an error is raised only when all have ended: nothing goes on behind one's back."""
    ended = await asyncio.gather(*works, return_exceptions=True)
    for one in ended:
        if isinstance(one, BaseException):
            raise one
    return ended


@asynccontextmanager
async def open_action_session(
    settings: Settings,
    *,
    database: Database | None = None,
    clock: Clock | None = None,
    options: Options | None = None,
) -> AsyncIterator[ActionSession]:
    """A session for as long as the block lasts: in the gateway as long as the process, in a flow as long as its run.

    Nothing is asked of Prefect's server before the first action.

    Args:
        settings: This installation.
        database: An open database; without one it opens its own.
        clock: Source of time.
        options: How actions are performed.

    Raises:
        StoreError: the database does not answer, or needs an upgrade.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        if database is None:
            database = await stack.enter_async_context(open_database(settings))
        clients = ActionClients(database, settings, clock)
        stack.push_async_callback(clients.aclose)
        session = ActionSession(
            database=database,
            clients=clients,
            clock=clock,
            owner=process_name(),
            options=options,
        )
        stack.push_async_callback(session.aclose)
        yield session
