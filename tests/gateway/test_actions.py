"""The doors by which the product writes: done once, answered alike, each failure with a status and a word."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway import actions
from gateway.actions import STATUS_OF_REASON
from gateway.answers import Refusal
from gateway.app import create_app
from gateway.background import Background
from kommo.errors import ErrorKind
from sandbox import Sandbox, running_sandbox
from sandbox.state import Account
from store.actions import ActionRecord, ActionState
from tasks.actions import AddNote, AnyWish, outcomes
from tasks.actions.plans import Call, Plan
from tasks.actions.wishes import LONGEST_TEXT
from tasks.errors import AccountChangedError, NotConnectedError, ReauthorizationRequiredError
from tests.actions.support import AccessClients, access_of, join
from tests.gateway.doors import Doors
from tests.store.builders import field, minutes, save
from tests.syncing import quiet_config

TASKS = "/api/v1/orgs/acme/tasks"
_SOON = int(time.time()) + 86_400


@dataclass
class Office:
    """A gateway, and a sandbox whose account acme is connected and was synced."""

    doors: Doors
    kommo: Sandbox

    @property
    def account(self) -> Account:
        return self.kommo.account("acme")

    def requests(self) -> int:
        return len(self.kommo.world.log.entries)

    def task(self, text: str = "Call Ann", **more: Any) -> dict[str, Any]:
        lead = next(iter(self.account.entities["leads"]))["id"]
        return {"text": text, "complete_till": _SOON, "entity_id": lead, "entity_type": "leads"} | more

    def tasks(self, text: str) -> list[int]:
        return [one["id"] for one in self.account.tasks if one["text"] == text]

    async def write(self, what: str, body: Any, key: str = "k1") -> httpx.Response:
        return await self.doors.post(f"/api/v1/orgs/acme/{what}", body, headers={"Idempotency-Key": key})


@pytest.fixture
async def office(doors: Doors) -> AsyncIterator[Office]:
    async with running_sandbox(quiet_config(accounts=1, leads=2, contacts=2, companies=1, talks=2)) as kommo:
        access = access_of(kommo)
        await join(doors.database, access)
        doors.services.actions.clients = clients = AccessClients(access)
        yield Office(doors, kommo)
        await clients.aclose()


async def test_r3_a_task_is_made_once_however_often_it_is_asked_for(office: Office) -> None:
    body = office.task()
    answers = await asyncio.gather(*(office.write("tasks", body) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}, answers[0].text
    told = answers[0].json()
    assert all(answer.json() == told for answer in answers)
    assert [told["result"]["task_id"]] == office.tasks("Call Ann")
    assert (told["kind"], told["state"], told["idempotency_key"]) == ("create-task", "confirmed", "k1")
    path = f"/api/v1/orgs/acme/actions/{told['action_id']}"
    assert (await office.doors.get(path)).json() == told
    doors = office.doors
    elsewhere = await doors.http.get(
        path.replace("/acme/", "/globex/"), headers=doors.signed("globex", doors.every)
    )
    assert elsewhere.status_code == 404
    other = await office.write("tasks", office.task("Call Bob"))
    assert (other.status_code, other.json()["reason_code"]) == (409, "idempotency_conflict")
    assert office.tasks("Call Bob") == []


async def test_what_does_not_fit_is_refused_with_what_would_before_anything_is_sent(office: Office) -> None:
    before = office.requests()
    types = office.account.hidden["task_types"]
    wrong = await office.write("tasks", office.task(task_type_id=987))
    assert wrong.status_code == 422, wrong.text
    assert wrong.headers["content-type"] == "application/problem+json"
    told = wrong.json()
    assert (told["reason_code"], told["field"]) == ("invalid", "task_type_id")
    assert all(one["name"] in told["detail"] for one in types[:3])
    for body in ({}, office.task(canary=1), office.task(complete_till="canary"), [1]):
        refused = await office.write("tasks", body)
        assert refused.status_code == 400
        assert refused.json()["detail"].startswith("Invalid request. body")
        assert "canary" not in refused.text
    for key in ("", "a b", "x" * 201):
        refused = await office.write("tasks", office.task(), key)
        assert refused.status_code == 400
        assert "Idempotency-Key" in refused.json()["detail"]
    missing = await office.doors.post(TASKS, office.task())
    assert (missing.status_code, "Idempotency-Key" in missing.json()["detail"]) == (400, True)
    assert office.requests() == before


async def test_each_kind_has_its_door(office: Office) -> None:
    account = office.account
    lead = next(iter(account.entities["leads"]))
    field = next(one for one in account.fields["leads"] if one["type"] == "select")
    value = field["enums"][-1]["value"]
    body = {"deal_id": lead["id"], "field_id": field["id"], "value": value}
    updated = await office.write("deal-fields", body, "field")
    assert updated.status_code == 200, updated.text
    [now] = [one for one in account.entities["leads"] if one["id"] == lead["id"]]
    [written] = [one for one in now["custom_fields_values"] if one["field_id"] == field["id"]]
    assert written["values"][0]["value"] == value
    note = await office.write(
        "notes", {"entity_type": "leads", "entity_id": lead["id"], "text": "Ann called"}, "note"
    )
    assert note.status_code == 201, note.text
    talk = next(one for one in account.talks if one["is_in_work"])
    entity = {"entity_type": "contacts", "entity_id": talk["contact_id"]}
    message = await office.write("messages", entity | {"text": "Hello Ann"}, "message")
    assert message.status_code == 201, message.text
    as_note = await office.write("messages", entity | {"text": "A note", "as_note": True}, "message-as-note")
    assert as_note.json()["result"]["as"] == "note"


async def test_an_org_that_is_not_connected_or_was_never_synced_is_told(doors: Doors) -> None:
    path, body = "/api/v1/orgs/acme/deal-fields", {"deal_id": 1, "field_id": 2, "value": "x"}
    answer = await doors.post(path, body, headers={"Idempotency-Key": "k1"})
    assert (answer.status_code, answer.json()["reason_code"]) == (404, "not_connected")
    await doors.connect()
    answer = await doors.post(path, body, headers={"Idempotency-Key": "k1"})
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


async def test_a_value_that_cannot_be_written_as_json_is_refused(doors: Doors) -> None:
    await doors.connect()
    fields = {"lead_fields": [field(1)], "lead_field_enums": []}
    await save(doors.database, 0, fields)
    headers = doors.signed() | {"content-type": "application/json"}
    for number, value in enumerate(("NaN", "1e999", '[{"a": -Infinity}]', '"\\ud800"', '{"\\ud800": 1}')):
        answer = await doors.http.post(
            "/api/v1/orgs/acme/deal-fields",
            content=f'{{"deal_id": 1, "field_id": 1, "value": {value}}}',
            headers=headers | {"Idempotency-Key": f"k{number}"},
        )
        assert (answer.status_code, "body.value" in answer.json()["detail"]) == (400, True), value


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


def test_each_reason_has_a_status_that_the_document_knows() -> None:
    documented = create_app().openapi()["paths"]["/api/v1/orgs/{org}/tasks"]["post"]["responses"]
    for code in {*STATUS_OF_REASON, *ErrorKind, "whatever"}:
        with pytest.raises(Refusal) as refused:
            actions._answer(_record(ActionState.FAILED, code), 201)
        assert refused.value.status == STATUS_OF_REASON.get(code, 502)
        assert str(refused.value.status) in documented


async def test_a_failure_is_a_problem_with_a_word_and_the_action(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def performed(*_: object) -> ActionRecord:
        return _record(ActionState.FAILED, "not_in_plan")

    monkeypatch.setattr("gateway.actions.perform", performed)
    answer = await doors.post(TASKS, {"text": "x", "complete_till": _SOON}, headers={"Idempotency-Key": "k1"})
    assert (answer.status_code, answer.headers["content-type"]) == (402, "application/problem+json")
    told = answer.json()
    assert (told["reason_code"], told["detail"]) == ("not_in_plan", "Because of not_in_plan.")
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


async def test_actions_that_wait_for_kommo_leave_room_for_other_work() -> None:
    background = Background()
    actions = [asyncio.create_task(asyncio.sleep(60)) for _ in range(100)]
    for one in actions:
        background.adopt(one)
    other = background.start("sync acme", "A sync", asyncio.sleep(0))
    assert other is not None
    await background.finish(0.0)
    assert all(one.cancelled() for one in actions)


async def test_the_longest_text_fits_however_it_is_written(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def performed(session: object, org: str, wish: AnyWish, key: str) -> ActionRecord:
        del session, org, key
        assert isinstance(wish, AddNote)
        assert len(wish.text) == LONGEST_TEXT
        return _record(ActionState.CONFIRMED)

    monkeypatch.setattr("gateway.actions.perform", performed)
    body = json.dumps({"entity_type": "leads", "entity_id": 1, "text": "😀" * LONGEST_TEXT})
    assert "\\ud83d" in body
    answer = await doors.http.post(
        "/api/v1/orgs/acme/notes",
        content=body,
        headers=doors.signed() | {"Idempotency-Key": "k1", "Content-Type": "application/json"},
    )
    assert answer.status_code == 201, answer.text


async def test_a_value_that_is_no_json_is_a_bad_request(doors: Doors) -> None:
    for value in ("NaN", "-Infinity", "1e999", "1" * 5000, "[" * 900 + "]" * 900):
        answer = await doors.http.post(
            "/api/v1/orgs/acme/deal-fields",
            content=f'{{"deal_id": 1, "field_id": 2, "value": {value}}}',
            headers=doors.signed() | {"Idempotency-Key": "k1", "Content-Type": "application/json"},
        )
        assert answer.status_code == 400, answer.text


def test_what_the_connection_lacks_is_not_blamed_on_kommo() -> None:
    plan = Plan(Call.NOTE, {"params": {"text": "x"}}, "leads", 1)
    status = {
        type(error): STATUS_OF_REASON.get(outcomes.reason_of(plan, error)[0])
        for error in (NotConnectedError(), ReauthorizationRequiredError(), AccountChangedError())
    }
    assert status == {NotConnectedError: 404, ReauthorizationRequiredError: 403, AccountChangedError: 409}


async def test_a_body_that_is_too_large_or_does_not_come_is_told(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Idempotency-Key": "k1"}
    large = await doors.post(TASKS, {"text": "x" * 140_000}, headers=headers)
    assert large.status_code == 413
    deep = await doors.http.post(
        TASKS,
        content=b"[" * 60_000,
        headers=doors.signed() | headers | {"Content-Type": "application/json"},
    )
    assert deep.status_code == 400
    monkeypatch.setattr("gateway.access.BODY_SECONDS", 0.1)
    port = int(doors.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"POST {TASKS} HTTP/1.1", "Host: x", "Content-Length: 10"]
    lines += [f"{name}: {value}" for name, value in (doors.signed() | headers).items()]
    writer.write("\r\n".join((*lines, "", "{")).encode())
    assert (await asyncio.wait_for(reader.readline(), 10)).split()[1] == b"408"
    writer.close()
