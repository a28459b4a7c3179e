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


async def test_the_ready_line_names_the_consent_page_and_the_integration() -> None:
    flags = ("--client-id", "11111111-1111-4111-8111-111111111111", "--client-secret", "s3cret")
    more = ("--redirect-uri", "http://127.0.0.1:1/cb", "--disable-hook", "http://127.0.0.1:1/off")
    process, ready = await started("--accounts", "1000", *flags, *more)
    async with httpx.AsyncClient(trust_env=False) as http:
        integrations = (await http.get(f"{ready['url']}/_sandbox/integrations")).json()
    process.terminate()
    await process.communicate()
    assert ready["www"] == f"http://www.localhost:{ready['port']}"
    assert (len(ready["accounts"]), ready["account_count"]) == (16, 1000)
    assert ready["integration"] == {
        "client_id": "11111111-1111-4111-8111-111111111111",
        "client_secret": "s3cret",
        "redirect_uri": "http://127.0.0.1:1/cb",
        "disable_hook": "http://127.0.0.1:1/off",
        "authorize_url": f"{ready['www']}/oauth",
    }
    assert [known["redirect_uri"] for known in integrations] == ["http://127.0.0.1:1/cb"]


async def test_the_command_of_ours_starts_it_with_the_same_flags() -> None:
    options = {
        "accounts": "1",
        "redirect-uri": "http://127.0.0.1:1/cb",
        "client-id": "22222222-2222-4222-8222-222222222222",
        "client-secret": "s3cret",
        "refresh": "dead",
    }
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("kommo"), "sandbox", "--port=0", "--json",
        *(f"--{name}={value}" for name, value in options.items()),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
    process.terminate()
    await process.communicate()
    for name in ("redirect-uri", "client-id", "client-secret"):
        assert ready["integration"][name.replace("-", "_")] == options[name]
    assert len(ready["accounts"]) == 1


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
