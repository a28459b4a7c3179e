"""What the proofs share: real `kommo` processes, a sandbox as a process, its control API, how many rounds."""

import asyncio
import json
import os
import sys
import urllib.request
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

KOMMO = Path(sys.executable).with_name("kommo")
ROOT = Path(__file__).parents[2]
FULL = os.environ.get("KOMMO_TEST_ROUNDS") == "full"


def rounds(full: int) -> int:
    """One round by default, all of them when asked for."""
    return full if FULL else 1


async def start_kommo(
    *arguments: str, api: str, per_second: float, command: Sequence[str] = (str(KOMMO),)
) -> Process:
    """Start the command line as a person would; the rest of its environment is the test's own."""
    environment = os.environ | {"PREFECT_API_URL": api, "KOMMO_REQUESTS_PER_SECOND": f"{per_second:g}"}
    return await asyncio.create_subprocess_exec(
        *command, *arguments, env=environment, stdout=PIPE, stderr=PIPE
    )


async def end(process: Process, *, seconds: float = 120) -> dict[str, Any]:
    """Wait for a command that answers in JSON; it must have done well."""
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    finally:
        await kill(process)
    assert process.returncode == 0, err.decode()
    answer: dict[str, Any] = json.loads(out)
    return answer


async def kill(process: Process) -> None:
    """Kill a process that this test started, if it is still there, and take leave of it."""
    if process.returncode is None:
        process.kill()
        await process.communicate()


@asynccontextmanager
async def sandbox_process(*arguments: str) -> AsyncIterator[dict[str, Any]]:
    """A sandbox as a process of its own, on any free port; gives what its ready line says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox", "--port", "0", "--json", *arguments, cwd=ROOT, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            ready = json.loads(await process.stdout.readline())
        yield ready
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def control(url: str, name: str, method: str = "GET", body: object = None) -> Any:
    """Ask the control API of a sandbox process."""

    def ask() -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{url}/_sandbox/{name}", data=data, method=method)  # noqa: S310 - our loopback
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
            return json.load(answer)

    return await asyncio.to_thread(ask)
