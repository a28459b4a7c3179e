"""Starting and stopping: in the running event loop, in a thread, or as a process of its own (`__main__`)."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from sandbox import changes
from sandbox.app import App
from sandbox.config import SandboxConfig
from sandbox.state import Account
from sandbox.wire import Connection
from sandbox.world import World


@dataclass(frozen=True)
class AccountAccess:
    """How to reach one account of a running sandbox.

    Args:
        subdomain: e.g. acme.
        host: Host with port, e.g. acme.localhost:8025.
        account_id: Kommo's id.
        admin_token: Long-lived token of an administrator.
        plain_token: Long-lived token of a user who is none.
    """

    subdomain: str
    host: str
    account_id: int
    admin_token: str
    plain_token: str


class Sandbox:
    """A running sandbox.

    Args:
        config: What it is made of.
        world: Its state; tests may look into it and change it.
        port: Where it listens.
    """

    def __init__(self, config: SandboxConfig, world: World, port: int) -> None:
        self.config = config
        self.world = world
        self.port = port

    @property
    def url(self) -> str:
        """Base URL without an account; there the bearer token decides which account is meant."""
        return f"http://{self.config.host}:{self.port}"

    @property
    def www(self) -> str:
        """Scheme and host of the consent page."""
        return f"http://www.localhost:{self.port}"

    @property
    def accounts(self) -> list[AccountAccess]:
        """Hosts and tokens."""
        return [
            AccountAccess(
                subdomain=card.subdomain,
                host=card.host,
                account_id=card.id,
                admin_token=self.world.long_lived[card.id]["admin"],
                plain_token=self.world.long_lived[card.id]["plain"],
            )
            for card in self.world.accounts.cards
        ]

    def account(self, subdomain: str) -> Account:
        """The state of one account.

        Raises:
            KeyError: There is no such account.
        """
        found = self.world.account_named(subdomain)
        if found is None:
            raise KeyError(subdomain)
        return found

    def change(self, subdomain: str, name: str, /, **arguments: object) -> dict[str, Any]:
        """Change an account's set-up as a person would in the UI.

        Args:
            subdomain: Which account.
            name: One of `sandbox.changes.CHANGES`.
            arguments: What that change takes.
        """
        return changes.apply(self.world, self.account(subdomain), name, arguments)


@contextlib.asynccontextmanager
async def running_sandbox(config: SandboxConfig | None = None) -> AsyncIterator[Sandbox]:
    """A sandbox on the running event loop; gone when the block ends.

    Args:
        config: What it is made of; None = the defaults.

    Yields:
        The sandbox, listening.
    """
    config = config or SandboxConfig()
    loop = asyncio.get_running_loop()
    connections: set[Connection] = set()
    apps: list[App] = []
    sending: list[asyncio.Task[None]] = []
    # The port must be known before the data is made, since links carry it; nobody is answered before that.
    server = await loop.create_server(
        lambda: Connection(apps[0].handle, connections),
        config.host,
        config.port,
        start_serving=False,
    )
    port = int(server.sockets[0].getsockname()[1])
    try:
        world = World(config, port)
        apps.append(App(world))
        sending.append(loop.create_task(world.webhooks.run()))
        await server.start_serving()
        yield Sandbox(config, world, port)
    finally:
        server.close()
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        for connection in list(connections):
            connection.abort()
        await asyncio.sleep(0)  # lets the transports close their sockets


@contextlib.contextmanager
def sandbox_in_thread(config: SandboxConfig | None = None) -> Iterator[Sandbox]:
    """The same for code without an event loop: the sandbox runs in a thread.

    Args:
        config: What it is made of; None = the defaults.

    Yields:
        The sandbox, listening. Use its control API, not its state, while requests are under way.
    """
    ready: list[Sandbox] = []
    failed: list[BaseException] = []
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with running_sandbox(config) as sandbox:
            ready.append(sandbox)
            started.set()
            await stop.wait()

    def work() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            failed.append(error)
        finally:
            loop.close()
            started.set()

    thread = threading.Thread(target=work, name="sandbox", daemon=True)
    thread.start()
    started.wait()
    if failed:
        raise failed[0]
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
