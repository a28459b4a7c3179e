"""The doors by which the product writes: done once, answered alike, each failure with a status and a word."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.actions import STATUS_OF_REASON
from kommo.errors import ErrorKind
from store.actions import ActionRecord, ActionState
from tests.gateway.doors import Doors
from tests.gateway.support import House
from tests.store.builders import minutes
from tests.syncing import connect

TASKS = "/api/v1/orgs/acme/tasks"
_SOON = int(time.time()) + 86_400


@pytest.fixture
async def connected(house: House) -> AsyncIterator[House]:
    """The house, with acme connected and synced."""
    await connect("acme", house.acme, house.settings)
    synced = await house.product.post(
        "/api/v1/agents/a1/sync-crm", json={"type": "all"}, params={"wait": 60}, headers=house.signed()
    )
    assert synced.status_code == 200, synced.text
    yield house


def _task(house: House, text: str = "Call Ann", **more: Any) -> dict[str, Any]:
    lead = next(iter(house.kommo.account("acme").leads.values()))["id"]
    return {"text": text, "complete_till": _SOON, "entity_id": lead, "entity_type": "leads"} | more


async def _write(house: House, what: str, body: Any, key: str = "k1") -> httpx.Response:
    headers = house.signed("acme", house.key) | {"Idempotency-Key": key}
    return await house.product.post(f"/api/v1/orgs/acme/{what}", json=body, headers=headers)


def _tasks(house: House, text: str) -> list[int]:
    return [one["id"] for one in house.kommo.account("acme").tasks.values() if one["text"] == text]


@pytest.mark.seconds(5)
async def test_r3_a_task_is_made_once_however_often_it_is_asked_for(connected: House) -> None:
    body = _task(connected)
    answers = await asyncio.gather(*(_write(connected, "tasks", body) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}, answers[0].text
    told = answers[0].json()
    assert all(answer.json() == told for answer in answers)
    assert [told["result"]["id"]] == _tasks(connected, "Call Ann")
    assert (told["kind"], told["state"], told["idempotency_key"]) == ("create-task", "confirmed", "k1")
    shown = await connected.product.get(
        f"/api/v1/orgs/acme/actions/{told['action_id']}", headers=connected.signed()
    )
    assert shown.json() == told
    elsewhere = await connected.product.get(
        f"/api/v1/orgs/globex/actions/{told['action_id']}", headers=connected.signed("globex")
    )
    assert elsewhere.status_code == 404
    other = await _write(connected, "tasks", _task(connected, "Call Bob"))
    assert (other.status_code, other.json()["reason_code"]) == (409, "idempotency_conflict")
    assert _tasks(connected, "Call Bob") == []


@pytest.mark.seconds(4)
async def test_what_does_not_fit_is_refused_with_what_would_before_anything_is_sent(connected: House) -> None:
    before = connected.requests()
    types = connected.kommo.account("acme").hidden["task_types"]
    wrong = await _write(connected, "tasks", _task(connected, task_type_id=987))
    assert wrong.status_code == 422, wrong.text
    assert wrong.headers["content-type"] == "application/problem+json"
    told = wrong.json()
    assert (told["reason_code"], told["field"]) == ("invalid", "task_type_id")
    assert all(one["name"] in told["detail"] for one in types[:3])
    for body in ({}, _task(connected, canary=1), _task(connected, complete_till="canary"), [1]):
        refused = await _write(connected, "tasks", body)
        assert refused.status_code == 400
        assert refused.json()["detail"].startswith("Invalid request. body")
        assert "canary" not in refused.text
    for key in ("", "a b", "ä", "x" * 201):
        headers = connected.signed() | {"Idempotency-Key": key.encode()}  # type: ignore[dict-item]
        refused = await connected.product.post(TASKS, json=_task(connected), headers=headers)
        assert refused.status_code == 400
        assert "Idempotency-Key" in refused.json()["detail"]
    missing = await connected.product.post(TASKS, json=_task(connected), headers=connected.signed())
    assert (missing.status_code, "Idempotency-Key" in missing.json()["detail"]) == (400, True)
    assert connected.requests() == before


@pytest.mark.seconds(4)
async def test_each_kind_has_its_door(connected: House) -> None:
    account = connected.kommo.account("acme")
    lead = next(iter(account.leads.values()))
    field = next(one for one in account.fields["leads"] if one["type"] == "select")
    value = field["enums"][-1]["value"]
    body = {"deal_id": lead["id"], "field_id": field["id"], "value": value}
    updated = await _write(connected, "deal-fields", body, "field")
    assert updated.status_code == 200, updated.text
    [written] = [one for one in lead["custom_fields_values"] if one["field_id"] == field["id"]]
    assert written["values"][0]["value"] == value
    note = await _write(
        connected, "notes", {"entity_type": "leads", "entity_id": lead["id"], "text": "Ann called"}, "note"
    )
    assert note.status_code == 201, note.text
    talk = next(one for one in account.talks.values() if not one["is_closed"])
    entity = {"entity_type": "contacts", "entity_id": talk["contact_id"]}
    message = await _write(connected, "messages", entity | {"text": "Hello Ann"}, "message")
    assert message.status_code == 201, message.text
    as_note = await _write(
        connected, "messages", entity | {"text": "A note", "as_note": True}, "message-as-note"
    )
    assert as_note.json()["result"]["as"] == "note"


async def test_an_org_that_is_not_connected_or_was_never_synced_is_told(house: House) -> None:
    body = {"text": "x", "complete_till": _SOON}
    answer = await _write(house, "tasks", body)
    assert (answer.status_code, answer.json()["reason_code"]) == (404, "not_connected")
    await connect("acme", house.acme, house.settings)
    answer = await _write(house, "tasks", body | {"task_type_id": 2})
    assert (answer.status_code, answer.json()["reason_code"]) == (409, "never_synced")


def _record(state: ActionState, code: str | None = None) -> ActionRecord:
    return ActionRecord(
        action_id="a" * 32,
        org="acme",
        kind="create-task",
        idempotency_key="k1",
        request={},
        state=state,
        result=None,
        reason=None if code is None else f"Because of {code}.",
        reason_code=code,
        attempts=1,
        created_at=minutes(0),
        updated_at=minutes(0),
    )


@pytest.mark.parametrize("state", [ActionState.INTENDED, ActionState.SENT, ActionState.UNKNOWN])
async def test_what_is_not_known_yet_is_a_202_with_where_to_ask(
    doors: Doors, monkeypatch: pytest.MonkeyPatch, state: ActionState
) -> None:
    async def performed(*_: object) -> ActionRecord:
        return _record(state, "being_looked_up")

    monkeypatch.setattr("gateway.actions.perform", performed)
    answer = await doors.post(TASKS, {"text": "x", "complete_till": _SOON}, headers={"Idempotency-Key": "k1"})
    assert answer.status_code == 202
    assert answer.json()["state"] == state
    assert answer.headers["location"] == f"/api/v1/orgs/acme/actions/{'a' * 32}"


async def test_each_reason_has_a_status_that_the_document_knows(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = (await doors.http.get("/openapi.json")).json()
    documented = document["paths"]["/api/v1/orgs/{org}/tasks"]["post"]["responses"]
    codes = {*STATUS_OF_REASON, *ErrorKind, "whatever"}
    for code in codes:

        async def performed(*_: object, code: str = code) -> ActionRecord:
            return _record(ActionState.FAILED, code)

        monkeypatch.setattr("gateway.actions.perform", performed)
        answer = await doors.post(
            TASKS, {"text": "x", "complete_till": _SOON}, headers={"Idempotency-Key": "k1"}
        )
        assert answer.status_code == STATUS_OF_REASON.get(code, 502)
        assert str(answer.status_code) in documented
        told = answer.json()
        assert (told["reason_code"], told["detail"]) == (code, f"Because of {code}.")
        assert told["action_id"] == "a" * 32


async def test_who_hangs_up_breaks_nothing_off(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def performed(*_: object) -> ActionRecord:
        began.set()
        await go_on.wait()
        ended.set()
        return _record(ActionState.CONFIRMED)

    monkeypatch.setattr("gateway.actions.perform", performed)
    body = {"text": "x", "complete_till": _SOON}
    asked = asyncio.create_task(doors.post(TASKS, body, headers={"Idempotency-Key": "k1"}))
    await began.wait()
    asked.cancel()
    await asyncio.sleep(0.05)
    go_on.set()
    await doors.services.background.finish(5)
    assert ended.is_set()


async def test_a_body_that_is_too_large_or_does_not_come_is_told(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Idempotency-Key": "k1"}
    large = await doors.post(TASKS, {"text": "x" * 70_000}, headers=headers)
    assert large.status_code == 413
    deep = await doors.http.post(
        TASKS,
        content=b"[" * 60_000,
        headers=doors.signed() | headers | {"Content-Type": "application/json"},
    )
    assert deep.status_code == 400
    monkeypatch.setattr("gateway.access.BODY_SECONDS", 0.1)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(0.5)
        yield b"}"

    slow = await doors.http.post(TASKS, content=slowly(), headers=doors.signed() | headers)
    assert slow.status_code == 408
