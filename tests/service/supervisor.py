"""Does what systemd does for the units: starts them, restarts each five seconds after it ends, ends all of a unit.

A killed main process takes its children with it (KillMode=control-group): they are found by a mark in their
environment, which stands for the control group.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MARK = "KOMMO_TEST_UNIT"
RESTARTS_AFTER = 5.0


@dataclass
class Service:
    """One supervised process.

    Attributes:
        name: For people and for the log's name.
        command: What is started.
        environment: All of its environment.
        before: Commands that run before each start.
        folder: Where it runs.
        starts: When it was started, on the monotonic clock.
        prepare: Runs in the new process before the command, such as giving up root.
        user: For `before` and the command: give up root for this one.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    before: Sequence[Sequence[str]] = ()
    folder: Path = Path("/")
    stop_signal: signal.Signals = signal.SIGTERM
    starts: list[float] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None
    wanted: bool = True
    held: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Keeps services running.

    Args:
        logs: Folder for what they say.
        run: Tells this run of the harness from others.
    """

    def __init__(self, logs: Path, run: str) -> None:
        self._logs = logs
        self._run = run
        self.services: dict[str, Service] = {}

    def add(self, service: Service) -> Service:
        """Start a service, and keep it running."""
        self.services[service.name] = service
        service.held.set()
        service.keeper = asyncio.create_task(self._keep(service), name=service.name)
        return service

    def log(self, name: str) -> Path:
        """What a service has said."""
        return self._logs / f"{name.replace('@', '-')}.log"

    async def _keep(self, service: Service) -> None:
        mark = f"{self._run}:{service.name}"
        environment = dict(service.environment) | {MARK: mark}
        with self.log(service.name).open("ab") as said:
            while service.wanted:
                good = True
                for command in service.before:
                    first = await asyncio.create_subprocess_exec(
                        *command, env=environment, cwd=service.folder, stdout=said, stderr=said
                    )
                    good = good and await first.wait() == 0
                if good:
                    service.starts.append(time.monotonic())
                    service.process = await asyncio.create_subprocess_exec(
                        *service.command,
                        env=environment,
                        cwd=service.folder,
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=said,
                        stderr=said,
                        start_new_session=True,
                    )
                    code = await service.process.wait()
                    said.write(f"--- {service.name} ended with {code}\n".encode())
                    said.flush()
                    for pid in marked(mark):
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                if service.wanted:
                    await asyncio.sleep(RESTARTS_AFTER)
                    await service.held.wait()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill a service's main process; it comes again by itself."""
        process = self.services[name].process
        assert process is not None
        process.send_signal(number)

    async def stop(self, name: str, seconds: float = 30.0) -> None:
        """End a service for good, by its own means if it can."""
        service = self.services[name]
        service.wanted = False
        service.held.set()
        if service.process is not None and service.process.returncode is None:
            service.process.send_signal(service.stop_signal)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await service.process.wait()
            if service.process.returncode is None:
                service.process.kill()
        if service.keeper is not None:
            try:
                async with asyncio.timeout(5):
                    await service.keeper
            except TimeoutError:
                service.keeper.cancel()

    def used(self, name: str) -> tuple[float, float]:
        """MiB of resident memory and seconds of processor of a unit's living processes (not PostgreSQL's children)."""
        resident, seconds = 0.0, 0.0
        for pid in marked(f"{self._run}:{name}"):
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                resident += int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        return resident, seconds

    async def stop_all(self, order: Callable[[str], int]) -> None:
        """End all services, the lowest order first."""
        for rank in sorted({order(name) for name in self.services}):
            names = [name for name in self.services if order(name) == rank]
            await asyncio.gather(*(self.stop(name) for name in names))


def marked(mark: str) -> list[int]:
    """The processes of a unit that are alive, by the mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if f"{MARK}={mark}\0".encode() in (entry / "environ").read_bytes() + b"\0":
                    found.append(int(entry.name))
    return found
