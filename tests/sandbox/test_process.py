"""The sandbox as a process: its ready line, its data, its end."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]


async def started(*flags: str, **environment: str) -> tuple[asyncio.subprocess.Process, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox", "--port", "0", "--json", *flags,
        cwd=ROOT, env=os.environ | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    line = await asyncio.wait_for(process.stdout.readline(), 20)
    return process, json.loads(line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_how_to_get_in_and_ends_at_once_and_clean(number: signal.Signals) -> None:
    process, ready = await started("--accounts", "2", "--leads", "5")
    acme = ready["accounts"][0]
    assert (acme["subdomain"], acme["host"]) == ("acme", f"acme.localhost:{ready['port']}")
    async with httpx.AsyncClient(trust_env=False) as http:
        headers = {"Authorization": f"Bearer {acme['admin_token']}"}
        answer = await http.get(f"{ready['url']}/api/v4/account", headers=headers)
        assert answer.json()["id"] == acme["account_id"]
        process.send_signal(number)  # while the connection is still open
        _, errors = await asyncio.wait_for(process.communicate(), 5)
    assert (process.returncode, errors) == (0, b"")


async def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    bodies: list[str] = []
    for hash_seed, flags in (("1", ()), ("2", ()), ("1", ("--seed", "2"))):
        process, ready = await started("--leads", "40", *flags, PYTHONHASHSEED=hash_seed)
        async with httpx.AsyncClient(trust_env=False) as http:
            texts = [
                (
                    await http.get(
                        f"{ready['url']}/_sandbox/state?account={known['subdomain']}&include={names}"
                    )
                ).text
                for known in ready["accounts"]
                for names in ("leads,contacts,companies,tasks,notes,events",)
            ]
        process.terminate()
        await process.communicate()
        bodies.append("".join(texts).replace(f":{ready['port']}", ""))
    assert bodies[0] == bodies[1]
    assert bodies[0] != bodies[2]


async def test_a_port_in_use_is_named() -> None:
    process, ready = await started()
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox", "--port", str(ready["port"]),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await asyncio.wait_for(second.communicate(), 20)
    process.terminate()
    await process.communicate()
    assert second.returncode == 1
    assert b"cannot listen" in errors
    assert b"Traceback" not in errors
