"""The product's own door to an account's set-up (product-contract.md, row 13): answers, words, one run for all."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_async
from prefect.states import Cancelled, Crashed

from blocks.settings import Settings
from flows.full_sync import full_crm_sync
from gateway.background import Background
from gateway.syncs import Syncs
from kommo.clock import SystemClock
from store.connections import ConnectionState, set_state
from store.runs import begin_run, finish_run, list_runs
from tasks import readers
from tasks.errors import DataPlaneError
from tasks.installation import open_database
from tasks.scopes import Group, Scope
from tasks.session import SyncSession
from tests.gateway.support import House
from tests.proofs.support import rounds
from tests.syncing import connect, held

DOOR = "/api/v1/agents/a1/sync-crm"
_SHAPES = {
    "funnels": {"id", "name", "sort", "is_main", "statuses"},
    "channels": {"id", "name", "type", "account_id"},
    "dealFields": {"id", "name", "type", "code", "is_system"},
    "contactFields": {"id", "name", "type", "code", "is_system"},
}


async def _ask(house: House, what: str = "all", org: str = "acme", **query: Any) -> httpx.Response:
    return await house.product.post(DOOR, json={"type": what}, params=query, headers=house.signed(org))


def _held(house: House) -> dict[str, list[dict[str, Any]]]:
    """The four lists as the sandbox has them, in the product's shapes."""
    found = held(house.kommo, "acme")
    kinds = {"funnels": "pipelines", "dealFields": "lead_fields", "contactFields": "contact_fields"}
    lists = {
        part: [{key: value for key, value in one.items() if key in _SHAPES[part]} for one in found[kind]]
        for part, kind in kinds.items()
    }
    for funnel in lists["funnels"]:
        funnel["statuses"] = [
            {key: one[key] for key in ("id", "name", "sort", "color")} for one in funnel["statuses"]
        ]
    return lists


@pytest.fixture
async def connected(house: House) -> House:
    await connect("acme", house.acme, house.settings)
    return house


@pytest.mark.seconds(4)
async def test_the_lists_are_answered_in_the_products_shapes(connected: House) -> None:
    answer = await _ask(connected)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"data"}
    data = answer.json()["data"]
    assert set(data) == set(_SHAPES)
    for part, keys in _SHAPES.items():
        assert data[part]
        assert all(set(one) == keys for one in data[part]), part
    for part, wanted in _held(connected).items():
        assert {one["id"]: one for one in data[part]} == {one["id"]: one for one in wanted}, part
    assert {one["account_id"] for one in data["channels"]} == {connected.acme.account_id}
    for what, parts in (
        ("funnels", {"funnels"}),
        ("channels", {"channels"}),
        ("fields", {"dealFields", "contactFields"}),
    ):
        before = connected.requests()
        at_once = await _ask(connected, what, fresh="false")
        assert set(at_once.json()["data"]) == parts
        assert all(at_once.json()["data"][part] == data[part] for part in parts)
        assert at_once.headers["x-kommo-taken-at"]
        assert connected.requests() == before, "nothing is asked at Kommo"


async def test_the_words_that_the_product_compares(house: House) -> None:
    body = {"type": "all"}
    nobody = await house.product.post(DOOR, json=body, headers={"X-Kommo-Org": "acme"})
    assert (nobody.status_code, nobody.json()) == (401, {"error": "Unauthorized"})
    none = await _ask(house)
    assert (none.status_code, none.json()) == (400, {"error": "CRM not connected"})
    await connect("acme", house.acme, house.settings)
    never = await _ask(house, fresh="false")
    assert never.status_code == 404
    wrongs: tuple[Any, ...] = ({"type": "canary"}, {}, [], None)
    for wrong in wrongs:
        refused = await house.product.post(DOOR, json=wrong, headers=house.signed())
        assert refused.status_code == 400
        assert "body" in refused.json()["error"]
        assert "canary" not in refused.text
    unread = await house.product.post(DOOR, content=b"{", headers=house.signed())
    assert unread.status_code == 400
    unnamed = await house.product.post(DOOR, json=body, headers={"X-API-Key": house.every})
    assert (unnamed.status_code, "X-Kommo-Org" in unnamed.json()["error"]) == (400, True)
    by_key = await house.product.post(f"{DOOR}?fresh=false", json=body, headers={"X-API-Key": house.key})
    assert by_key.status_code == 404, "a key for one org names it"
    other = await house.product.post(DOOR, json=body, headers=house.signed("globex", house.key))
    assert (other.status_code, other.json()) == (403, {"error": "This key may not act for that org."})
    await set_state(
        house.services.database, "acme", ConnectionState.DISCONNECTED, now=house.services.clock.now()
    )
    assert (await _ask(house)).json() == {"error": "CRM not connected"}


def _refuse_deal_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(session: SyncSession) -> None:
        del session
        raise DataPlaneError("There are no fields today.")

    monkeypatch.setitem(readers._READERS, Group.LEAD_FIELDS, refuse)


@pytest.mark.seconds(4)
async def test_a_list_that_cannot_be_read_fails_none_of_the_others(
    connected: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as refusing:
        _refuse_deal_fields(refusing)
        never = await _ask(connected, "fields")
    assert never.status_code == 200
    assert set(never.json()["data"]) == {"contactFields"}, "there is none of what was never read"
    assert [(one["part"], one["taken_at"]) for one in never.json()["stale"]] == [("dealFields", None)]
    before = (await _ask(connected, "fields")).json()["data"]
    _refuse_deal_fields(monkeypatch)
    answer = await _ask(connected, "fields")
    assert answer.status_code == 200
    assert answer.json()["data"] == before
    [stale] = answer.json()["stale"]
    assert (stale["part"], stale["reason"]) == ("dealFields", "There are no fields today.")
    assert stale["taken_at"]


@pytest.mark.seconds(3)
async def test_callers_at_once_share_a_run_and_who_does_not_wait_gets_its_address(connected: House) -> None:
    hurried = [_ask(connected, wait=0) for _ in range(4)]
    patient = [_ask(connected, wait=30) for _ in range(4)]
    answers = await asyncio.gather(*hurried, *patient)
    assert [answer.status_code for answer in answers] == [202] * 4 + [200] * 4
    assert len(await list_runs(connected.services.database, "acme")) == 1
    told = answers[0].json()
    assert {one.json()["run_id"] for one in answers[:4]} == {told["run_id"]}
    assert answers[0].headers["location"] == told["status_url"]
    standing = (await connected.product.get(told["status_url"], headers=connected.signed())).json()
    assert (standing["state"], standing["run_id"]) == ("completed", told["run_id"])
    assert {one["state"] for one in standing["kinds"]} == {"saved"}
    assert (await _ask(connected)).status_code == 200
    assert len(await list_runs(connected.services.database, "acme")) == 2, "the next one is a run of its own"
    other = await connected.product.get(
        told["status_url"].replace("/acme/", "/globex/"), headers=connected.signed("globex")
    )
    assert other.status_code == 404


@pytest.fixture
async def deployment(prefect_api: str) -> AsyncIterator[UUID]:
    del prefect_api
    made = await (await full_crm_sync.ato_deployment(name="on-demand")).aapply()
    yield made
    async with get_client() as client:
        await client.delete_deployment(made)


async def _scheduled(deployment: UUID) -> list[Any]:
    async with get_client() as client:
        runs = [run for run in await client.read_flow_runs() if run.deployment_id == deployment]
    return [run for run in runs if run.state is not None and run.state.is_scheduled()]


async def _until_scheduled(deployment: UUID) -> Any:
    for _ in range(200):
        if runs := await _scheduled(deployment):
            return runs[0]
        await asyncio.sleep(0.05)
    raise AssertionError("nobody asked for a run")


@pytest.mark.seconds(5)
async def test_with_a_deployment_a_worker_gets_one_run_and_all_wait_for_it(
    connected: House, deployment: UUID
) -> None:
    asked = connected.requests()
    callers = [asyncio.create_task(_ask(connected, "funnels", wait=30)) for _ in range(3)]
    run = await _until_scheduled(deployment)
    late = await _ask(connected, "funnels", wait=0)
    assert (late.status_code, late.json()["run_id"]) == (202, str(run.id)), "it joins, also a little later"
    assert late.json()["state"] == "scheduled"
    assert len(await _scheduled(deployment)) == 1
    assert connected.requests() == asked, "this process reads nothing"
    assert run.parameters == {"org": "acme", "scope": "funnels"}
    await run_flow_async(full_crm_sync, flow_run=run, parameters=run.parameters)
    answers = await asyncio.gather(*callers)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert set(answers[0].json()["data"]) == {"funnels"}
    again = await _ask(connected, "funnels", wait=0)
    assert again.json()["run_id"] != str(run.id), "it has ended, so the next is another one"


@pytest.mark.seconds(3)
async def test_a_run_that_has_read_already_is_not_joined_any_more(connected: House, deployment: UUID) -> None:
    """Its report may take a second yet, in which somebody may have changed the account and asked again."""
    first = (await _ask(connected, "funnels", wait=0)).json()["run_id"]
    del deployment  # it is only there
    database, now = connected.services.database, connected.services.clock.now()
    run_id = await begin_run(database, "acme", "funnels", first, now=now)
    assert (await _ask(connected, "funnels", wait=0)).json()["run_id"] == first
    await finish_run(database, run_id, "completed", now=now)
    assert (await _ask(connected, "funnels", wait=0)).json()["run_id"] != first


@pytest.mark.seconds(5)
async def test_a_run_that_dies_is_told_and_the_next_one_is_another(
    connected: House, deployment: UUID
) -> None:
    caller = asyncio.create_task(_ask(connected, "funnels", wait=30))
    run = await _until_scheduled(deployment)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Crashed(message="canary"), force=True)
    answer = await caller
    assert answer.status_code == 502, answer.text
    assert "crashed" in answer.json()["error"]
    assert "canary" not in answer.text
    standing = await connected.product.get(f"/api/v1/orgs/acme/syncs/{run.id}", headers=connected.signed())
    assert (standing.json()["state"], standing.json()["started_at"]) == ("failed", None)
    again = await _ask(connected, "funnels", wait=0)
    assert again.json()["run_id"] != str(run.id)


@pytest.mark.proof
@pytest.mark.seconds(3)
async def test_of_several_gateways_that_are_asked_at_once_all_get_one_run(
    installation: Settings, deployment: UUID
) -> None:
    async with open_database(installation) as database:
        gateways = [Syncs(database, Background(), SystemClock()) for _ in range(2)]
        for _ in range(rounds(3)):
            runs = await asyncio.gather(*(one.start("acme", Scope.FIELDS) for one in gateways))
            assert len(set(runs)) == 1
            [run] = await _scheduled(deployment)
            assert str(run.id) == runs[0]
            async with get_client() as client:
                await client.set_flow_run_state(run.id, Cancelled(), force=True)
        assert await gateways[0].start("acme", Scope.ALL) != runs[0], "another scope is another run"


async def test_without_prefect_it_says_so_and_when_to_try_again(
    connected: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise ConnectionError("canary")

    monkeypatch.setattr(Syncs, "_run_of_deployment", away)
    monkeypatch.setattr("gateway.syncs._PAUSE", 0.0)
    answer = await _ask(connected)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "canary" not in answer.text
