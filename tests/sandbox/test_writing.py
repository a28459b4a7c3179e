"""Writing: thin answers, validation, and what a write changes (fact sheet 2.3, 3.3 to 3.9, 3.14, 4, 5)."""

from typing import Any

import pytest

from tests.sandbox.support import Api

Json = dict[str, Any]


async def new_lead(api: Api, **values: Any) -> int:
    answer = await api.post("leads", [{"name": "Test", **values}])
    assert answer.status_code == 200, answer.text
    return int(answer.json()["_embedded"]["leads"][0]["id"])


async def lead(api: Api, lead_id: int, with_: str = "") -> Json:
    found: Json = (await api.get(f"leads/{lead_id}?with={with_}")).json()
    return found


async def flaws(api: Api, method: str, path: str, body: object) -> list[tuple[str, str, str]]:
    answer = await api.send(method, path, body=body)
    assert answer.status_code == 400, answer.text
    return [
        (found["request_id"], flaw["code"], flaw["path"])
        for found in answer.json()["validation-errors"]
        for flaw in found["errors"]
    ]


def field(api: Api, kind: str, entity: str = "leads") -> Json:
    return next(known for known in api.sandbox.account("acme").fields[entity] if known["type"] == kind)


async def test_a_create_answers_ids_and_echoes_request_ids_only(api: Api) -> None:
    made = (await api.post("leads", [{"name": "A", "request_id": "mine"}, {"name": "B"}])).json()[
        "_embedded"
    ]["leads"]
    assert [entry["request_id"] for entry in made] == ["mine", "1"]
    assert {key for entry in made for key in entry} == {"id", "request_id", "_links"}


async def test_a_repeated_create_makes_a_second_lead(api: Api) -> None:
    assert await new_lead(api, request_id="same") != await new_lead(api, request_id="same")


async def test_a_new_lead_starts_in_the_first_stage_of_the_main_pipeline(api: Api) -> None:
    made = await lead(api, await new_lead(api))
    account = api.sandbox.account("acme")
    main = account.main_pipeline()["id"]
    assert (made["pipeline_id"], made["status_id"]) == (main, account.statuses(main)[1]["id"])


async def test_patch_by_id_moves_updated_at_and_closes_the_lead(api: Api) -> None:
    lead_id = await new_lead(api)
    await api.control("POST", "clock", {"advance": 60})
    before = await lead(api, lead_id)
    reason = next(iter(api.sandbox.account("acme").loss_reasons))["id"]
    answer = (await api.patch(f"leads/{lead_id}", {"status_id": 143, "loss_reason_id": reason})).json()
    after = await lead(api, lead_id, "loss_reason")
    assert set(answer) == {"id", "updated_at", "_links"}
    assert answer["updated_at"] == after["updated_at"] == after["closed_at"] > before["updated_at"]
    assert [entry["id"] for entry in after["_embedded"]["loss_reason"]] == [reason]
    await api.patch(f"leads/{lead_id}", {"status_id": before["status_id"]})
    reopened = await lead(api, lead_id)
    assert (reopened["closed_at"], reopened["loss_reason_id"]) == (None, None)


async def test_the_amo_flavour_wraps_the_answer_of_a_patch_by_id(api: Api) -> None:
    lead_id = next(iter(api.sandbox.account("romashka").entities["leads"]))["id"]
    answer = await api.patch(f"leads/{lead_id}", {"price": 1}, account="romashka")
    assert answer.json()["_embedded"]["leads"][0]["id"] == lead_id


async def test_a_field_sent_is_replaced_others_stay_and_null_clears(api: Api) -> None:
    text, choice = field(api, "text"), field(api, "select")
    sent = [
        {"field_id": text["id"], "values": [{"value": "x"}]},
        {"field_id": choice["id"], "values": [{"value": choice["enums"][1]["value"]}]},
    ]
    lead_id = await new_lead(api, custom_fields_values=sent)
    await api.patch(
        f"leads/{lead_id}", {"custom_fields_values": [{"field_id": text["id"], "values": [{"value": "y"}]}]}
    )
    values = (await lead(api, lead_id))["custom_fields_values"]
    assert {entry["field_id"]: entry["values"][0]["value"] for entry in values} == {
        text["id"]: "y",
        choice["id"]: choice["enums"][1]["value"],
    }
    assert values[1]["values"][0]["enum_id"] == choice["enums"][1]["id"]
    clear = [{"field_id": text["id"], "values": None}, {"field_id": choice["id"], "values": []}]
    await api.patch(f"leads/{lead_id}", {"custom_fields_values": clear})
    assert (await lead(api, lead_id))["custom_fields_values"] is None


@pytest.mark.parametrize(
    ("kind", "sent", "read"),
    [
        ("numeric", {"value": 1.5}, "1.5"),
        ("checkbox", {"value": "1"}, True),
        ("date", {"value": "2020-01-01T00:00:00+00:00"}, 1_577_836_800),
        ("date_time", {"value": 1_577_836_801}, 1_577_836_801),
        ("textarea", {"value": "two\nlines"}, "two\nlines"),
    ],
)
async def test_values_are_read_back_in_kommos_types(api: Api, kind: str, sent: Json, read: object) -> None:
    values = [{"field_id": field(api, kind)["id"], "values": [sent]}]
    found = await lead(api, await new_lead(api, custom_fields_values=values))
    assert found["custom_fields_values"][0]["values"][0]["value"] == read


async def test_tags_are_replaced_added_and_removed(api: Api) -> None:
    lead_id = await new_lead(api, _embedded={"tags": [{"name": "one"}, {"name": "two"}]})

    async def tags() -> list[str]:
        return [tag["name"] for tag in (await lead(api, lead_id))["_embedded"]["tags"]]

    assert await tags() == ["one", "two"]
    await api.patch(
        f"leads/{lead_id}", {"tags_to_add": [{"name": "three"}], "tags_to_delete": [{"name": "one"}]}
    )
    assert await tags() == ["two", "three"]
    await api.patch(f"leads/{lead_id}", {"_embedded": {"tags": None}})
    assert await tags() == []


async def test_every_flaw_is_named_by_element_and_path_and_nothing_is_written(api: Api) -> None:
    count = len(api.sandbox.account("acme").entities["leads"])
    body: list[Json] = [
        {"name": "fine"},
        {
            "request_id": "bad",
            "name": 5,
            "price": "12",
            "responsible_user_id": 1,
            "pipeline_id": 1,
            "custom_fields_values": [
                {"field_id": 1, "values": []},
                {"field_id": field(api, "select")["id"], "values": [{"enum_id": 1}]},
            ],
            "_embedded": {"contacts": [{"id": 1}]},
        },
    ]
    assert await flaws(api, "POST", "leads", body) == [
        ("bad", "InvalidType", "name"),
        ("bad", "InvalidType", "price"),
        ("bad", "NotSupportedChoice", "responsible_user_id"),
        ("bad", "NotSupportedChoice", "custom_fields_values.0.field_id"),
        ("bad", "NotSupportedChoice", "custom_fields_values.1.values.0.enum_id"),
        ("bad", "NotSupportedChoice", "pipeline_id"),
        ("bad", "NotSupportedChoice", "_embedded.contacts.0.id"),
    ]
    assert len(api.sandbox.account("acme").entities["leads"]) == count


async def test_an_object_where_an_array_belongs_and_the_reverse_are_400(api: Api) -> None:
    assert (await flaws(api, "POST", "leads", {"name": "x"}))[0][1] == "InvalidType"
    lead_id = await new_lead(api)
    assert (await flaws(api, "PATCH", f"leads/{lead_id}", [{"price": 1}]))[0][1] == "InvalidType"
    empty = await api.send("POST", "leads")
    assert (empty.status_code, empty.json()["detail"]) == (400, "Request data can not be empty")


async def test_more_than_250_elements_are_422(api: Api) -> None:
    assert (await api.post("leads", [{"name": "x"}] * 251)).status_code == 422


async def test_a_stage_of_another_pipeline_needs_its_pipeline_id(api: Api) -> None:
    lead_id, account = await new_lead(api), api.sandbox.account("acme")
    other = list(account.pipelines)[1]["id"]
    stage = account.statuses(other)[1]["id"]
    found = await flaws(api, "PATCH", f"leads/{lead_id}", {"status_id": stage})
    assert found == [("0", "NotSupportedChoice", "status_id")]
    assert (
        await api.patch(f"leads/{lead_id}", {"status_id": stage, "pipeline_id": other})
    ).status_code == 200


async def test_the_incoming_stage_takes_no_plain_lead(api: Api) -> None:
    account = api.sandbox.account("acme")
    incoming = account.statuses(account.main_pipeline()["id"])[0]
    assert incoming["type"] == 1
    assert await flaws(api, "POST", "leads", [{"status_id": incoming["id"]}])


async def test_changes_leave_events(api: Api) -> None:
    lead_id = await new_lead(api, name="Before")
    await api.patch(f"leads/{lead_id}", {"status_id": 142, "name": "After"})
    events = await api.read_all(
        f"events?filter[entity]=lead&filter[entity_id][]={lead_id}", "events", limit=100
    )
    assert {event["type"] for event in events} == {"lead_added", "lead_status_changed", "name_field_changed"}
    moved = next(event for event in events if event["type"] == "lead_status_changed")
    assert moved["value_after"][0]["lead_status"]["id"] == 142


async def test_one_edit_is_announced_as_update_status_and_responsible(api: Api) -> None:
    heard: list[str] = []
    api.sandbox.world.listeners.append(lambda change: heard.append(f"{change.entity}.{change.action}"))
    lead_id = await new_lead(api)
    other = list(api.sandbox.account("acme").users)[1]["id"]
    await api.patch(f"leads/{lead_id}", {"status_id": 142, "responsible_user_id": other})
    assert heard == ["leads.add", "leads.update", "leads.status", "leads.responsible"]


async def test_complex_makes_lead_contact_and_company_in_one_go(api: Api) -> None:
    people = {"contacts": [{"first_name": "Ann", "last_name": "Lee"}], "companies": [{"name": "Acme"}]}
    [made] = (
        await api.post("leads/complex", [{"name": "Big", "_embedded": people, "request_id": "r"}])
    ).json()
    assert made["request_id"] == ["r"]
    found = await lead(api, made["id"], "contacts")
    assert [entry["id"] for entry in found["_embedded"]["contacts"]] == [made["contact_id"]]
    assert (await api.get(f"contacts/{made['contact_id']}")).json()["name"] == "Ann Lee"
    assert (await api.post("leads/complex", [{"name": "x"}] * 51)).status_code == 422


async def test_an_incoming_lead_keeps_the_id_it_had_before_it_was_accepted(api: Api) -> None:
    [first, second] = await api.read_all("leads/unsorted", "unsorted")
    lead_id = first["_embedded"]["leads"][0]["id"]
    assert (await api.get(f"leads/{lead_id}")).status_code == 204
    accepted = (await api.post(f"leads/unsorted/{first['uid']}/accept", {})).json()
    assert accepted["_embedded"]["leads"][0]["id"] == lead_id
    assert (await api.get(f"leads/{lead_id}")).status_code == 200
    assert (await api.send("DELETE", f"leads/unsorted/{second['uid']}/decline")).status_code == 200
    assert (await api.send("DELETE", f"leads/unsorted/{second['uid']}/decline")).status_code == 404


async def test_a_task_is_made_and_completed(api: Api) -> None:
    lead_id = await new_lead(api)
    body = [{"text": "Call", "complete_till": 1_900_000_000, "entity_id": lead_id, "entity_type": "leads"}]
    task_id = (await api.post("tasks", body)).json()["_embedded"]["tasks"][0]["id"]
    assert (await api.get(f"tasks/{task_id}")).json()["result"] == []
    await api.patch(f"tasks/{task_id}", {"is_completed": True, "result": {"text": "Done"}})
    task = (await api.get(f"tasks/{task_id}")).json()
    assert (task["is_completed"], task["result"]) == (True, {"text": "Done"})
    assert await flaws(
        api, "POST", "tasks", [{"task_type_id": 99, "entity_id": 1, "entity_type": "leads"}]
    ) == [
        ("0", "FieldMissing", "text"),
        ("0", "FieldMissing", "complete_till"),
        ("0", "NotSupportedChoice", "task_type_id"),
        ("0", "NotSupportedChoice", "entity_id"),
    ]


async def test_a_note_of_an_unknown_type_is_refused(api: Api) -> None:
    lead_id = await new_lead(api)
    body = [{"note_type": "whatsapp_message", "params": {"text": "Hi"}}]
    assert await flaws(api, "POST", f"leads/{lead_id}/notes", body) == [
        ("0", "NotSupportedChoice", "note_type")
    ]
    made = await api.post(f"leads/{lead_id}/notes", [{"note_type": "common", "params": {"text": "Hi"}}])
    assert made.json()["_embedded"]["notes"][0]["entity_id"] == lead_id


async def test_sending_a_message_answers_202_402_403_404_and_422(api: Api) -> None:
    talks = await api.read_all("talks", "talks")
    open_ = next(talk["talk_id"] for talk in talks if talk["is_in_work"])
    path, text = f"talks/{open_}/send_message", {"text": "Hello"}
    sent = await api.post(path, text)
    assert sent.status_code == 202
    history = await api.read_all(f"talks/{open_}/messages", "messages")
    assert history[-1]["id"] == sent.json()["id"]
    assert (await api.post("talks/1/send_message", text)).status_code == 404
    assert (await api.post(path, {"text": ""})).status_code == 400
    narrow = await api.control("POST", "tokens", {"account": "acme", "scopes": ["crm"]})
    refused = await api.post(path, text, token=narrow["access_token"])
    assert (refused.status_code, refused.json()["detail"]) == (403, "Invalid scope")
    await api.control("POST", "plan", {"account": "acme", "chats_quota": 0})
    assert (await api.post(path, text)).json()["detail"] == "Over chat API limit"
    await api.control("POST", "plan", {"account": "acme", "chats_tariff": False})
    assert (await api.post(path, text)).json()[
        "detail"
    ] == "Endpoint not available for current account tariff"
    await api.control("POST", "plan", {"account": "acme", "chats_quota": 9, "chats_tariff": True})
    assert (await api.post(f"talks/{open_}/close", {"force_close": True})).status_code == 202
    closed = await api.post(path, text)
    assert (closed.status_code, closed.json()["detail"]) == (422, "Talk is closed")


async def test_a_bot_is_started_for_a_known_lead_only(api: Api) -> None:
    lead_id = await new_lead(api)
    body = {"entity_id": lead_id, "entity_type": "leads"}
    assert (await api.post("bots/321/run", body)).status_code == 202
    assert (await api.post("bots/1/run", body)).status_code == 404
    assert (await api.post("bots/321/run", body | {"entity_id": 1})).status_code == 404


async def test_pipelines_get_their_system_stages_and_go_only_when_empty(api: Api) -> None:
    body = [{"name": "New", "_embedded": {"statuses": [{"name": "First"}, {"id": 142, "name": "Hurra"}]}}]
    [made] = (await api.post("leads/pipelines", body)).json()["_embedded"]["pipelines"]
    stages = {stage["id"]: stage["name"] for stage in made["_embedded"]["statuses"]}
    assert stages[142] == "Hurra"
    assert 143 in stages
    assert made["_embedded"]["statuses"][0]["type"] == 1
    await new_lead(api, pipeline_id=made["id"])
    assert (await api.send("DELETE", f"leads/pipelines/{made['id']}")).status_code == 422
    assert await flaws(api, "DELETE", "leads/pipelines/1", None) == [("0", "NotSupportedChoice", "id")]


async def test_deleting_a_stage_moves_its_leads_to_the_first(api: Api) -> None:
    account = api.sandbox.account("acme")
    main = account.main_pipeline()["id"]
    first, last = account.statuses(main)[1]["id"], account.statuses(main)[3]["id"]
    lead_id = await new_lead(api, pipeline_id=main, status_id=last)
    assert (await api.send("DELETE", f"leads/pipelines/{main}/statuses/{last}")).status_code == 204
    assert (await lead(api, lead_id))["status_id"] == first


async def test_enums_sent_without_their_id_are_made_anew(api: Api) -> None:
    choice = field(api, "select")
    kept, lost = choice["enums"][0], choice["enums"][1]
    sent = {"enums": [{"id": kept["id"], "value": "Kept"}, {"value": lost["value"]}]}
    changed = (await api.patch(f"leads/custom_fields/{choice['id']}", sent)).json()
    assert list(changed["enums"]) == ["0", "1"]
    assert changed["enums"]["0"]["id"] == kept["id"]
    assert changed["enums"]["1"]["id"] not in {enum["id"] for enum in choice["enums"]}
    stale = {"enums": [{"id": lost["id"], "value": "x"}]}
    assert await flaws(api, "PATCH", f"leads/custom_fields/{choice['id']}", stale) == [
        ("0", "NotSupportedChoice", "enums.0.id")
    ]


async def test_a_subscription_is_one_object_with_names_and_is_replaced_by_destination(api: Api) -> None:
    hook = {"destination": "https://app.example/hook", "settings": ["add_lead"]}
    first = (await api.post("webhooks", hook)).json()
    again = (await api.post("webhooks", hook | {"settings": ["status_lead"]})).json()
    assert (again["id"], again["settings"]) == (first["id"], ["status_lead"])
    assert await flaws(api, "POST", "webhooks", hook | {"settings": {"add_lead": True}})
    assert await flaws(api, "POST", "webhooks", hook | {"settings": ["no_such"]}) == [
        ("0", "NotSupportedChoice", "settings.0")
    ]
    assert (await api.send("DELETE", "webhooks", body={"destination": "https://other"})).status_code == 404
    assert (
        await api.send("DELETE", "webhooks", body={"destination": hook["destination"]})
    ).status_code == 204
    assert (await api.get("webhooks")).status_code == 204


async def test_links_are_written_as_is_main_and_read_as_main_contact(api: Api) -> None:
    lead_id = await new_lead(api)
    contact = next(iter(api.sandbox.account("acme").entities["contacts"]))["id"]
    body = [{"to_entity_id": contact, "to_entity_type": "contacts", "metadata": {"is_main": True}}]
    assert (await api.post(f"leads/{lead_id}/link", body)).status_code == 200
    [link] = (await api.get(f"leads/{lead_id}/links")).json()["_embedded"]["links"]
    assert (link["to_entity_id"], link["metadata"]) == (contact, {"main_contact": True})
    assert (await api.post(f"leads/{lead_id}/unlink", body)).status_code == 204
    assert (await api.get(f"leads/{lead_id}/links")).status_code == 204
