"""Throttling, the block of an address, and the faults that can be asked for (fact sheet 2.3, 2.4, 9.7, 9.8)."""

import asyncio
import time

import httpx
import pytest

from sandbox import LimitSettings, SandboxConfig
from sandbox.config import LimitSettings as Settings
from sandbox.limits import Limiter
from sandbox.requestlog import busiest
from tests.sandbox.support import Api
from tests.turns import measured

THROTTLED = SandboxConfig(limits=LimitSettings(block_after=4, retry_after=3), accounts=2, leads=30, talks=2)


@pytest.mark.parametrize("api", [THROTTLED], indirect=True)
async def test_the_eighth_request_of_a_second_gets_429_and_repeated_ones_block_the_address(api: Api) -> None:
    answers = [await api.get("account") for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 7 + [429] * 4
    assert answers[7].json()["retry_after"] == 3
    for path in ("account", "/oauth2/access_token"):
        blocked = await api.get(path)
        assert (blocked.status_code, blocked.headers["content-type"]) == (403, "text/html")
    await api.control("POST", "unblock", {"ip": "127.0.0.1"})
    await api.control("POST", "limits", {"per_ip": 0, "per_account": 1, "html": True})
    assert (await api.get("account")).status_code == 200
    assert (await api.get("account", account="globex")).status_code == 200
    assert (await api.get("account")).headers["content-type"] == "text/html"


def test_the_window_slides_and_refused_requests_take_no_place_in_it() -> None:
    limiter = Limiter(Settings(per_ip=2, per_account=0))
    moments = (0.0, 0.5, 0.9, 1.0, 1.4, 1.5, 2.0)
    assert [limiter.admit("ip", "acme", moment) for moment in moments] == [
        True,
        True,
        False,
        True,
        False,
        True,
        True,
    ]


def test_each_account_and_each_address_has_its_own_window() -> None:
    limiter = Limiter(Settings(per_ip=3, per_account=2))
    assert [limiter.admit("a", "acme", 0.0) for _ in range(3)] == [True, True, False]
    assert [limiter.admit("a", "globex", 0.0) for _ in range(2)] == [True, False]
    assert limiter.admit("b", "globex", 0.0)


def test_the_busiest_window_is_half_open() -> None:
    assert busiest([]) == 0
    assert busiest([0.0, 0.5, 1.0, 1.4]) == 3
    assert busiest([2.0, 0.0, 1.0]) == 1


async def test_the_log_knows_every_arrival_and_the_windows_are_counted_from_it(api: Api) -> None:
    await api.control("POST", "faults", {"kind": "502", "path": "users"})
    started = time.time()
    for path in ("account", "users", "leads?limit=1"):
        await api.get(path)
    entries = await api.control("GET", "requests")
    assert [(entry["path"], entry["status"], entry["fault"]) for entry in entries] == [
        ("/api/v4/account", 200, None),
        ("/api/v4/users", 502, "502"),
        ("/api/v4/leads", 200, None),
    ]
    assert entries[2]["query"] == "limit=1"
    assert all(entry["account"] == "acme" and abs(entry["arrived"] - started) < 5 for entry in entries)
    windows = await api.control("GET", "windows")
    assert windows["total"] == windows["max_per_account"]["acme"] == windows["max_per_ip"]["127.0.0.1"] == 3
    assert windows["counted_max_per_account"] == {"acme": 2}
    await api.control("DELETE", "requests")
    assert await api.control("GET", "requests") == []


@pytest.mark.parametrize(
    ("kind", "status", "content_type"),
    [
        ("429", 429, "application/problem+json"),
        ("429_html", 429, "text/html"),
        ("401", 401, "application/problem+json"),
        ("403_html", 403, "text/html"),
        ("500", 500, "application/problem+json"),
        ("502", 502, "text/html"),
        ("504", 504, "text/html"),
    ],
)
async def test_a_fault_strikes_as_often_as_asked(api: Api, kind: str, status: int, content_type: str) -> None:
    await api.control(
        "POST", "faults", {"kind": kind, "times": 1, "after": 1, "account": "acme", "retry_after": 2}
    )
    assert (await api.get("account")).status_code == 200
    assert (await api.get("account", account="globex")).status_code == 200
    struck = await api.get("account")
    assert (struck.status_code, struck.headers["content-type"]) == (status, content_type)
    assert struck.headers["x-request-id"]
    if kind == "429":
        assert struck.json()["retry_after"] == 2
    if kind == "500":
        assert set(struck.json()) == {"title", "status", "detail", "trace_id"}
    assert (await api.get("account")).status_code == 200


async def test_a_reset_closes_the_connection_without_an_answer(api: Api) -> None:
    await api.control("POST", "faults", {"kind": "reset", "times": 1})
    with pytest.raises(httpx.ReadError):
        await api.get("account")
    assert (await api.get("account")).status_code == 200


async def test_a_truncated_body_is_shorter_than_its_content_length(api: Api) -> None:
    await api.control("POST", "faults", {"kind": "truncate", "times": 1})
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        await api.get("account")


@pytest.mark.timing
async def test_a_slow_answer_holds_nobody_else_up(api: Api) -> None:
    await api.control("POST", "faults", {"kind": "slow", "times": 1, "delay": 0.3, "path": "users"})
    started = time.perf_counter()
    slow = asyncio.create_task(api.get("users"))
    await asyncio.sleep(0.02)
    assert (await api.get("account")).status_code == 200
    with measured():
        assert time.perf_counter() - started < 0.25
    assert (await slow).status_code == 200
    assert time.perf_counter() - started >= 0.3


async def test_the_same_seed_lets_the_same_requests_fail(api: Api) -> None:
    patterns = []
    for _ in range(2):
        await api.control("DELETE", "faults")
        await api.control("POST", "faults", {"kind": "502", "rate": 0.5, "seed": 7})
        patterns.append([(await api.get("account")).status_code for _ in range(20)])
    assert patterns[0] == patterns[1]
    assert set(patterns[0]) == {200, 502}


async def test_repeating_pages_hold_every_lead_and_some_twice(api: Api) -> None:
    await api.control("POST", "faults", {"kind": "shift_repeat", "by": 2, "path": "leads"})
    ids = [lead["id"] for lead in await api.read_all("leads", "leads", limit=7)]
    assert set(ids) == {lead["id"] for lead in api.sandbox.account("acme").entities["leads"]}
    assert len(ids) > len(set(ids))


async def test_turning_pages_lose_or_repeat_and_a_second_reading_is_sound_again(api: Api) -> None:
    held = sorted(known["id"] for known in api.sandbox.account("acme").fields["leads"])
    pages = -(-len(held) // 20)
    await api.control(
        "POST", "faults", {"kind": "shift_rotate", "by": 3, "times": pages, "path": "custom_fields"}
    )
    first = [known["id"] for known in await api.read_all("leads/custom_fields", "custom_fields", limit=20)]
    second = [known["id"] for known in await api.read_all("leads/custom_fields", "custom_fields", limit=20)]
    assert sorted(first) != held
    assert sorted(second) == held


async def test_a_next_may_lead_to_204(api: Api) -> None:
    await api.control("POST", "faults", {"kind": "phantom_next", "times": 1})
    page = (await api.get("leads?limit=250")).json()
    following = httpx.URL(page["_links"]["next"]["href"]).raw_path.decode()
    assert (await api.get(following)).status_code == 204


@pytest.mark.parametrize(
    ("kind", "start"), [("http_links", "http://acme.localhost/"), ("shard_links", "https://shard151.")]
)
async def test_links_may_name_another_host(api: Api, kind: str, start: str) -> None:
    await api.control("POST", "faults", {"kind": kind})
    assert (await api.get("leads?limit=2")).json()["_links"]["next"]["href"].startswith(start)


async def test_an_unpaid_account_gets_402(api: Api) -> None:
    await api.control("POST", "plan", {"account": "acme", "paid": False})
    assert (await api.get("account")).json()["title"] == "Payment Required"
    assert (await api.get("account", account="globex")).status_code == 200


@pytest.mark.parametrize("api", [SandboxConfig(max_batch=2, accounts=1)], indirect=True)
async def test_big_batches_time_out_at_the_gateway(api: Api) -> None:
    assert (await api.post("leads", [{"name": "x"}] * 2)).status_code == 200
    assert (await api.post("leads", [{"name": "x"}] * 3)).status_code == 504


async def test_a_wrong_control_call_says_what_is_wrong(api: Api) -> None:
    for name, body in (
        ("faults", {"kind": "nonsense"}),
        ("faults", {"kind": "500", "rate": 2}),
        ("change", {"account": "acme", "change": "nonsense"}),
        (
            "change",
            {"account": "acme", "change": "rename_status", "pipeline_id": 1, "status_id": 1, "name": "x"},
        ),
        ("limits", {"nonsense": 1}),
        ("plan", {"account": "nobody"}),
    ):
        answer = await api.http.post(f"{api.sandbox.url}/_sandbox/{name}", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]
    assert (await api.http.get(f"{api.sandbox.url}/_sandbox/nonsense")).status_code == 404
