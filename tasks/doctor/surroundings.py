"""What the checks look at, opened once and shared: the database, Prefect's API, the integration.

What cannot be opened is the business of one check; for the others it is a reason to skip.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from prefect.client.orchestration import PrefectClient, get_client
from prefect.settings import PREFECT_API_URL

from blocks.app import KommoApp
from blocks.database import KommoDatabase
from blocks.settings import Settings
from kommo.clock import Clock, SystemClock
from store.database import Database
from tasks.app import DEFAULT_NAME
from tasks.doctor.checks import SkippedError

_T = TypeVar("_T")
_PATIENCE = 5.0


def _free_bytes(path: str) -> int:
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt to open something came to."""

    value: Any = None
    error: Exception | None = None


@dataclass
class Surroundings:
    """An installation as the checks see it.

    Attributes:
        settings: what the environment says.
        clock: source of time.
        ping: whether signed test events may be sent to the product.
        free_bytes: how much room there is under a path.
    """

    settings: Settings
    stack: AsyncExitStack
    clock: Clock = field(default_factory=SystemClock)
    ping: bool = False
    free_bytes: Callable[[str], int] = field(default=_free_bytes)
    _known: dict[str, "asyncio.Task[Answer]"] = field(default_factory=dict, repr=False)

    @property
    def api(self) -> str:
        """The address of Prefect's API; empty where a small server would be started for each command."""
        return str(PREFECT_API_URL.value() or "")

    async def prefect_answer(self) -> Answer:
        """The client of a server that answers and knows us, or why there is none."""
        return await self._once("prefect", self._open_prefect)

    async def prefect(self) -> PrefectClient:
        """The client.

        Raises:
            SkippedError: Prefect does not answer.
        """
        if not self.api:
            raise SkippedError("No Prefect server is configured.")
        answer = await self.prefect_answer()
        if answer.error is not None:
            raise SkippedError("Prefect's API cannot be asked.")
        return cast("PrefectClient", answer.value)

    async def server_settings(self) -> dict[str, Any]:
        """What Prefect's server says of its settings; secrets are obscured by it."""

        async def read() -> Any:  # noqa: ANN401 - JSON
            return (await (await self.prefect()).request("GET", "/admin/settings")).json()

        answer = await self._once("server_settings", read)
        if answer.error is not None:
            raise SkippedError("Prefect's server does not tell its settings.")
        return cast("dict[str, Any]", answer.value)

    async def database_answer(self) -> Answer:
        """The database, open, or why not. Its tables may be of any version."""
        return await self._once("database", self._open_database)

    async def database(self) -> Database:
        """The database, with tables of this version.

        Raises:
            SkippedError: it does not answer, or its tables are of another version.
        """
        answer = await self.database_answer()
        if answer.error is not None:
            raise SkippedError("The database cannot be asked.")
        database, state = answer.value
        if state.name != "current":
            raise SkippedError("The database's tables are not those of this version.")
        return cast("Database", database)

    async def app_answer(self) -> Answer:
        """The integration as block and environment describe it together; an error if the block cannot be read."""
        return await self._once("app", self._find_app)

    async def app(self) -> KommoApp:
        """The integration.

        Raises:
            SkippedError: its block cannot be read.
        """
        answer = await self.app_answer()
        if answer.error is not None:
            raise SkippedError("The Kommo App block cannot be read.")
        return cast("KommoApp", answer.value)

    async def shared(self, what: str, make: Callable[[], Awaitable[_T]]) -> _T:
        """What several checks look at, read once for all of them.

        Raises:
            Exception: whatever the reading raised, for each of them.
        """
        answer = await self._once(what, make)
        if answer.error is not None:
            raise answer.error
        return cast("_T", answer.value)

    async def _once(self, what: str, make: Callable[[], Awaitable[_T]]) -> Answer:
        async def attempt() -> Answer:
            try:
                async with asyncio.timeout(_PATIENCE):
                    return Answer(await make())
            except Exception as error:  # noqa: BLE001 - the check whose business it is tells it
                return Answer(error=error)

        if what not in self._known:
            self._known[what] = asyncio.create_task(attempt(), name=what)
        # A check that is given up must not take what the others wait for with it.
        return await asyncio.shield(self._known[what])

    async def _open_prefect(self) -> PrefectClient:
        client = get_client(httpx_settings={"timeout": _PATIENCE})
        await self.stack.enter_async_context(client)
        answer = await client.request("GET", "/admin/version")
        if not isinstance(answer.json(), str):
            raise TypeError("no version")
        return client

    async def _open_database(self) -> Any:  # noqa: ANN401 - a pair
        settings = self.settings
        if settings.database_url is not None:
            opened = Database.open(settings.database_url.get_secret_value(), schema=settings.database_schema)
        else:
            opened = await self._database_of_block()
        database = await self.stack.enter_async_context(opened)
        return database, await database.state()

    async def _database_of_block(self) -> Any:  # noqa: ANN401 - a context
        if self.api and (await self.prefect_answer()).error is None:
            try:
                client = await self.prefect()
                found = await KommoDatabase.aload(DEFAULT_NAME, client=client)
                return cast("KommoDatabase", found).get_database(self.settings)
            except ValueError:
                pass  # there is none
        return Database.open(self.settings.embedded_database_url, schema=self.settings.database_schema)

    async def _find_app(self) -> KommoApp:
        block = KommoApp()
        if self.api:
            client = await self.prefect()
            try:
                # By the one client that there is: another one reads all certificates anew, twice.
                found = await KommoApp.aload(DEFAULT_NAME, validate=False, client=client)
                block = cast("KommoApp", found)
            except ValueError as error:
                if "Unable to find block document" not in str(error):
                    raise
        return block.filled_from(self.settings)


@asynccontextmanager
async def open_surroundings(
    settings: Settings, *, clock: Clock | None = None, ping: bool = False
) -> AsyncIterator[Surroundings]:
    """What the checks look at, closed at the end.

    Args:
        settings: the installation.
        clock: source of time.
        ping: whether a signed test event may be sent to the product.
    """
    async with AsyncExitStack() as stack:
        yield Surroundings(settings, stack, clock=clock or SystemClock(), ping=ping)
