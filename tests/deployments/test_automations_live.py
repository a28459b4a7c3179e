"""That what this program tells Prefect leads to what the automations promise, on a server with all that takes."""

import asyncio
import json
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from pydantic import SecretStr

from deployments.apply import apply
from deployments.automations import BACKLOG, apply_automations
from deployments.catalogue import CATALOGUE
from deployments.plan import make_plan
from gateway.waking import WAITING
from tasks.events import tell_of_installation
from tests.conftest import KEPT
from tests.prefect_server import running_prefect

pytestmark = [
    pytest.mark.whole_service,
    # What Prefect's notification blocks import is older than Python 3.11.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.seconds(10),
]


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PrefectClient]:
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED", "true")
    with running_prefect(tmp_path, KEPT):
        async with get_client() as client:
            plan = make_plan(catalogue=[one for one in CATALOGUE if "webhook_backlog" in one.entrypoint])
            await apply(plan)
            yield client


async def test_w2_webhooks_that_wait_start_a_run_and_somebody_is_told_of_what_needs_a_person(
    client: PrefectClient,
) -> None:
    heard: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        hook = CustomWebhookNotificationBlock(
            name="ops",
            url=f"http://127.0.0.1:{server.server_port}/",
            json_data={"text": "{{subject}}: {{body}}"},
            secrets={"unused": SecretStr("x")},
        )
        await hook.save("ops", overwrite=True)
        await apply_automations("custom-webhook/ops")
        # What is told next is matched by what the server has loaded by then.
        deployment = await client.read_deployment_by_name(BACKLOG)
        this = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))

        async def run_of_the_trigger() -> bool:
            runs = await client.read_flow_runs(deployment_filter=this)
            return any(run.auto_scheduled is False for run in runs)

        async def until_it_is_so() -> None:
            while not await run_of_the_trigger() or not heard:
                if not await run_of_the_trigger():
                    await tell_of_installation(WAITING)
                if not heard:
                    await tell_of_installation("kommo.completeness.low")
                await asyncio.sleep(1.0)

        await asyncio.wait_for(until_it_is_so(), 60)
    finally:
        server.shutdown()
        server.server_close()
    assert "completeness low" in heard[0]["text"]
