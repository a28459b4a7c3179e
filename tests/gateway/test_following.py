"""One id follows a delivery from the gateway to the product; no log holds a secret or a query string."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from blocks.settings import Settings
from flows.deliver_events import deliver_events
from flows.webhook_backlog import webhook_backlog
from store.inbox import get_delivery
from store.outbox import list_outbox
from tasks.logs import JsonLines, wants_json
from tests.gateway.hooks import ACCOUNT, FORM, connect, running_hooks
from tests.outbox.receiver import running_receiver
from tests.outbox.support import SECRET
from tests.webhooks.backlog_support import inbox

ID = "req-0123456789abcdef"
TALK = f"account[id]={ACCOUNT}&talk[add][0][talk_id]=191&talk[add][0][entity_id]=5&talk[add][0][entity_type]=lead"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What this process logs as JSON lines."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    loggers = [logging.getLogger(name) for name in ("gateway", "tasks")]
    before = [(one.level, one.propagate) for one in loggers]
    for one in loggers:
        one.addHandler(handler)
        one.setLevel(logging.DEBUG)
    yield written
    for one, (level, propagate) in zip(loggers, before, strict=True):
        one.removeHandler(handler)
        one.setLevel(level)
        one.propagate = propagate


def _parsed(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


@pytest.mark.usefixtures("prefect_api")
async def test_one_id_follows_a_delivery_from_the_gateway_to_the_product(
    installation: Settings, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_hooks(installation) as hooks, running_receiver() as product:
        await connect(hooks, "acme")
        answer = await hooks.http.post(
            f"{hooks.url}/api/webhooks/kommo/{hooks.key}",
            content=TALK,
            headers={"content-type": FORM, "x-request-id": ID},
        )
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, ID)
        [event] = await inbox(hooks.database)
        stored = await get_delivery(hooks.database, event.delivery_id)
        assert stored is not None
        assert (event.reference, stored.reference) == (ID, ID)
        await webhook_backlog("0s")
        [told] = await list_outbox(hooks.database)
        assert told.reference == ID
        monkeypatch.setenv("KOMMO_EVENTS_URL", product.url)
        monkeypatch.setenv("KOMMO_EVENTS_SECRET", SECRET.get_secret_value())
        await deliver_events("0s")
        [received] = product.taken
        assert (received.headers["x-request-id"], received.event["requestid"]) == (ID, ID)
    found = [line for line in _parsed(lines) if line.get("request_id") == ID]
    assert [line["logger"] for line in found] == ["gateway.access", "tasks.backlog_turn", "tasks.deliver_org"]
    seen, settled, sent = found
    assert seen["org"] == settled["org"] == sent["org"] == "acme"
    assert settled["delivery"] == event.delivery_id
    assert sent["event"] == told.event_id
    assert settled["run"] != sent["run"], "each by its own flow run"
    text = lines.getvalue()
    assert hooks.key not in text
    assert "canary" not in text


@pytest.mark.parametrize(
    "given", ["", "short", "a" * 65, 'quote"and blank', "-leading-dash", "new%0Aline=x;y"]
)
async def test_an_id_that_may_not_stand_everywhere_is_replaced(given: str, installation: Settings) -> None:
    async with running_hooks(installation) as hooks:
        answer = await hooks.http.get(f"{hooks.url}/healthz", headers={"x-request-id": given})
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 12


async def test_the_access_log_holds_no_query_string(installation: Settings, lines: io.StringIO) -> None:
    async with running_hooks(installation) as hooks:
        await hooks.http.get(f"{hooks.url}/api/v1/crm/kommo/callback?code=canary-code&state=canary-state")
        await hooks.http.get(f"{hooks.url}/nowhere?code=canary-code")
    shown = [line["message"] for line in _parsed(lines) if line["logger"] == "gateway.access"]
    assert len(shown) == 2
    assert "canary" not in lines.getvalue()


def test_an_exception_is_logged_by_its_type_and_place_only() -> None:
    try:
        int("canary")
    except ValueError:
        record = logging.LogRecord("tasks", logging.ERROR, "x.py", 1, "it failed", (), sys.exc_info())
    line = json.loads(JsonLines().format(record))
    assert (line["message"], line["error"]) == ("it failed", "ValueError")
    assert "canary" not in json.dumps(line)


def test_a_process_logs_json_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KOMMO_LOG_FORMAT", raising=False)
    assert (wants_json(), wants_json("json")) == (False, True)
    monkeypatch.setenv("KOMMO_LOG_FORMAT", "text")
    assert not wants_json("json")
    monkeypatch.setenv("KOMMO_LOG_FORMAT", "JSON")
    assert wants_json()


def test_a_process_that_runs_flows_logs_prefects_lines_and_ours_alike() -> None:
    code = (
        "import logging, flows\n"
        "from prefect.logging import get_logger\n"
        "from prefect.logging.configuration import setup_logging\n"
        "setup_logging()\n"  # as Prefect does again when a run begins
        "get_logger('runner').warning('theirs')\n"
        "logging.getLogger('tasks.any').info('ours', extra={'org': 'acme', 'request_id': 'req-1'})\n"
    )
    environment = {**os.environ, "KOMMO_LOG_FORMAT": "json"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines] == ["theirs", "ours"]
    assert (lines[1]["org"], lines[1]["request_id"]) == ("acme", "req-1")
