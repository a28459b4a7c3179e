"""Keys: how often each may ask, and that checking one tells nothing. Counts: what Prometheus is told."""

import random
import re
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import event

from blocks.settings import Settings
from gateway.rates import Rates
from kommo.clock import SystemClock
from store.api_keys import revoke_key
from store.database import Database
from store.outbox import OutboxEvent, add_events
from tasks.api_keys import known_api_key, make_api_key
from tests.gateway.doors import Doors, running_doors
from tests.gateway.hooks import DOOR, form
from tests.proofs.support import rounds
from tests.store.builders import minutes
from tests.turns import measured


class _Standing(SystemClock):
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


def test_a_bucket_gives_its_burst_then_so_many_a_second() -> None:
    clock = _Standing()
    rates = Rates(clock, per_second=2.0, burst=3)
    assert [rates.take("a") for _ in range(4)] == [0, 0, 0, 1]
    assert rates.take("b") == 0, "each key has its own"
    clock.seconds += 0.5
    assert [rates.take("a") for _ in range(2)] == [0, 1]
    clock.seconds += 3600
    assert [rates.take("a") for _ in range(4)] == [0, 0, 0, 1]
    slow = Rates(clock, per_second=0.1, burst=1)
    assert (slow.take("a"), slow.take("a")) == (0, 10)


@pytest.fixture
async def narrow(hook_settings: Settings) -> AsyncIterator[Doors]:
    settings = hook_settings.model_copy(update={"key_requests_per_second": 0.5, "key_burst": 2})
    async with running_doors(settings) as running:
        yield running


async def test_a_key_that_asks_too_often_is_told_when_to_come_again(narrow: Doors) -> None:
    path = "/api/v1/orgs/acme/connection"
    answers = [await narrow.get(path) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert answers[2].headers["retry-after"] in {"1", "2"}
    assert answers[2].headers["content-type"] == "application/problem+json"
    other = await narrow.http.get(path, headers=narrow.signed(key=narrow.every))
    assert other.status_code == 404, "another key is not held up"
    seed = await narrow.post("/api/v1/agents/a1/sync-crm", {"type": "all"})
    assert seed.status_code == 429
    assert set(seed.json()) == {"error"}


async def test_checking_a_key_is_the_same_work_for_every_text_that_is_none(db: Database) -> None:
    revoked, secret = await make_api_key(db, "revoked", None)
    await revoke_key(db, revoked.key_id, now=minutes(0))
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        del connection, cursor, more
        seen.append(statement)

    event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    work = []
    for text in (
        secret.get_secret_value(),
        "kdp_" + "x" * 43,
        "nothing like one",
        "x" * 30_000,
        "kdp_" + "y" * 500,
    ):
        seen.clear()
        assert await known_api_key(db, SecretStr(text)) is None
        work.append(list(seen))
    assert all(one == work[0] for one in work)
    assert any("api_key" in statement for statement in work[0])


@pytest.mark.timing
@pytest.mark.proof
async def test_checking_a_key_takes_as_long_for_every_text_that_is_none(db: Database, capsys: Any) -> None:
    revoked, secret = await make_api_key(db, "revoked", None)
    await revoke_key(db, revoked.key_id, now=minutes(0))
    good = (await make_api_key(db, "good", None))[1].get_secret_value()
    texts = {
        "revoked": secret.get_secret_value(),
        "unknown": "kdp_" + "x" * 43,
        "all but the last letter": good[:-1] + ("a" if good[-1] != "a" else "b"),
        "malformed": "nothing like one",
        "too long": "x" * 30_000,
    }
    order = list(texts)
    apart: dict[str, list[float]] = {name: [] for name in texts}
    for _ in range(150 * rounds(20)):
        random.shuffle(order)
        took = {}
        for name in order:
            began = time.perf_counter()
            assert await known_api_key(db, SecretStr(texts[name])) is None
            took[name] = time.perf_counter() - began
        # What slows the machine down slows a whole round down, or one text by chance: each is set against its round.
        for name, seconds in took.items():
            apart[name].append(seconds / statistics.median(took.values()))
    ratios = {name: statistics.median(values) for name, values in apart.items()}
    with capsys.disabled():
        told = {name: round(value, 3) for name, value in ratios.items()}
        print("\nchecking a key, as multiples of the round's median:", told)  # noqa: T201 - the figures are the point
    with measured():
        assert max(ratios.values()) < 1.3 * min(ratios.values())


def _value(text: str, name: str, *labels: str) -> float:
    for line in text.splitlines():
        if re.match(rf"{name}(?:\{{|\s)", line) and all(label in line for label in labels):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"{name} {labels} is not told")


async def test_what_was_answered_and_what_waits_is_counted_without_orgs(doors: Doors) -> None:
    await doors.connect("canary-org")
    for _ in range(3):
        await doors.get("/api/v1/orgs/acme/connection")
    await doors.http.get("/nowhere/canary")
    async with doors.database.begin() as connection:
        told = OutboxEvent("integration_connected", "canary-org", "connection", {})
        await add_events(connection, [told], doors.services.clock.now())
    headers = doors.signed(None, doors.every)
    answer = await doors.http.get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.text
    door = 'door="/api/v1/orgs/{org}/connection"'
    assert _value(text, "kommo_gateway_requests_total", door, 'status="404"') == 3
    assert _value(text, "kommo_gateway_request_seconds_count", door) == 3
    assert _value(text, "kommo_gateway_requests_total", 'door="other"', 'status="404"') == 1
    assert _value(text, "kommo_outbox_events", 'state="pending"') == 1
    assert _value(text, "kommo_connections", 'state="connected"') == 1
    assert _value(text, "kommo_backlog_pending") == 0
    assert "canary" not in text
    assert "acme" not in text
    for key in (None, "kdp_" + "x" * 43, doors.key):
        refused = await doors.http.get("/metrics", headers={} if key is None else doors.signed(None, key))
        assert refused.status_code == (403 if key == doors.key else 401)


async def test_webhooks_are_counted(hooks: Any) -> None:
    body = form(1, 2)
    for _ in range(2):
        assert (await hooks.send(body)).status_code == 200
    _, every = await make_api_key(hooks.database, "product", None)
    headers = {"Authorization": f"Bearer {every.get_secret_value()}"}
    text = (await hooks.http.get("/metrics", headers=headers)).text
    assert _value(text, "kommo_gateway_webhooks_total", 'outcome="stored"') == 2
    assert _value(text, "kommo_gateway_webhooks_total", 'outcome="repeated"') == 1
    assert _value(text, "kommo_backlog_pending") == 2
    assert _value(text, "kommo_backlog_oldest_seconds") >= 0
    assert _value(text, "kommo_gateway_requests_total", f'door="{DOOR}/{{hook_key}}"', 'status="200"') == 2


async def test_who_watches_may_ask_for_the_head_only(doors: Doors) -> None:
    answers = [await doors.http.head(path) for path in ("/healthz", "/readyz")]
    asked = [await doors.http.get(path) for path in ("/healthz", "/readyz")]
    assert [answer.status_code for answer in answers] == [answer.status_code for answer in asked]
    assert [answer.content for answer in answers] == [b"", b""]
    assert (await doors.http.head("/metrics")).status_code == 405
