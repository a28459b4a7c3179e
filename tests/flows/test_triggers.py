"""The page about triggers: its example works as it stands, and what it says of answers is so."""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_async

from blocks.settings import Settings
from deployments.apply import apply
from deployments.catalogue import CATALOGUE
from deployments.plan import make_plan
from flows.full_sync import full_crm_sync
from sandbox import Sandbox, running_sandbox
from tests.syncing import connect, quiet_config

PAGE = Path(__file__).parents[2] / "docs" / "triggers.md"


def _example() -> dict[str, Any]:
    """The functions of the page's example."""
    [code] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    return names


@pytest.fixture
async def deployment(prefect_api: str) -> AsyncIterator[UUID]:
    del prefect_api
    await apply(
        make_plan(pool=None, catalogue=[e for e in CATALOGUE if e.entrypoint.endswith(".full_crm_sync")])
    )
    async with get_client() as client:
        made = (await client.read_deployment_by_name("full-crm-sync/on-demand")).id
        yield made
        await client.delete_deployment(made)


async def _work(deployment: UUID, stop: asyncio.Event) -> int:
    """Do what `kommo serve` does: run what is scheduled."""
    done = 0
    while not stop.is_set():
        async with get_client() as client:
            runs = [run for run in await client.read_flow_runs() if run.deployment_id == deployment]
        for run in runs:
            if run.state is not None and run.state.is_scheduled():
                await run_flow_async(full_crm_sync, flow_run=run, parameters=run.parameters)
                done += 1
        await asyncio.sleep(0.1)
    return done


@pytest.mark.seconds(6)
async def test_the_example_syncs_an_org_and_the_same_key_is_the_same_run(
    installation: Settings, prefect_api: str, deployment: UUID
) -> None:
    example, key, stop = _example(), uuid4().hex, asyncio.Event()
    async with running_sandbox(quiet_config(accounts=1)) as kommo:
        await connect("acme", kommo.accounts[0], installation)
        worker = asyncio.create_task(_work(deployment, stop))
        runs = [
            await asyncio.to_thread(example["sync"], prefect_api, "acme", key, "funnels") for _ in range(2)
        ]
        stop.set()
        assert await worker == 1
        assert _reads(kommo) > 0
    assert {run["state"]["type"] for run in runs} == {"COMPLETED"}
    assert runs[0]["id"] == runs[1]["id"]


def _reads(kommo: Sandbox) -> int:
    return sum(entry.path == "/api/v4/leads/pipelines" for entry in kommo.world.log.entries)


async def test_what_the_page_says_of_answers_is_so(prefect_api: str, deployment: UUID) -> None:
    text = PAGE.read_text()
    path = f"/deployments/{deployment}/create_flow_run"
    async with httpx.AsyncClient(base_url=prefect_api, timeout=30) as prefect:

        async def ask(**parameters: Any) -> httpx.Response:
            body = {"parameters": parameters, "idempotency_key": key}
            for _ in range(5):
                answer = await prefect.post(path, json=body)
                if answer.status_code != 503:
                    break
                await asyncio.sleep(0.5)
            return answer

        key = uuid4().hex
        assert (await ask(org="acme")).status_code == 201
        assert (await ask(org="acme")).status_code == 200
        key = uuid4().hex
        wrongs: list[dict[str, Any]] = [{"org": "Not An Org"}, {"org": "acme", "scope": "canary"}, {}]
        for wrong in [*wrongs, {"org": "acme", "canary": 1}]:
            refused = await ask(**wrong)
            assert refused.status_code == 409, refused.text
            assert refused.json()["detail"]
    for status in ("201", "200", "409", "503"):
        assert f"**{status}**" in text


def test_the_example_tries_again_after_a_503() -> None:
    """Against a server that is busy twice, as Prefect's is with SQLite."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    asked: list[str] = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = b'{"id": "x"}'
            self.send_response(503 if len(asked) < 3 else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
                began = time.monotonic()
                assert _example()["ask"](client, "GET", "/x") == {"id": "x"}
                assert time.monotonic() - began < 5
        finally:
            server.shutdown()
            thread.join()
    assert len(asked) == 3


def test_the_page_names_every_deployment_on_demand() -> None:
    names = [planned.full_name for planned in make_plan().deployments if planned.cron is None]
    assert len(names) >= 8
    for name in names:
        assert f"`{name}`" in PAGE.read_text()
