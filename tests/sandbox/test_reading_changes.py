"""What a client needs to find changes that no webhook told it of: filters by id and time, order, the event list."""

from typing import Any

import pytest

from tests.sandbox.support import Api

Json = dict[str, Any]
HOUR = 3_600


async def change(api: Api, name: str, /, **arguments: Any) -> Json:
    result: Json = await api.control("POST", "change", {"account": "acme", "change": name, **arguments})
    return result


async def later(api: Api, seconds: int = HOUR) -> int:
    """Move the clock; the moment it shows then."""
    return int((await api.control("POST", "clock", {"advance": seconds}))["now"])


async def test_two_hundred_and_fifty_records_are_read_by_their_ids_without_the_deleted_and_unknown(
    api: Api,
) -> None:
    for entity in ("leads", "contacts", "companies", "tasks"):
        account = api.sandbox.account("acme")
        held = account.tasks if entity == "tasks" else account.entities[entity]
        ids = [record["id"] for record in held][:5]
        await change(api, "delete_record", entity=entity, id=ids[1])
        asked = "&".join(f"filter[id][]={record}" for record in [*ids, *range(1, 246)])
        found = await api.read_all(f"{entity}?{asked}", entity)
        assert [record["id"] for record in found] == [ids[0], *ids[2:]]
        assert (await api.get(f"{entity}?filter[id][]={ids[1]}")).status_code == 204


@pytest.mark.parametrize("entity", ["leads", "contacts", "companies"])
async def test_records_changed_since_a_moment_come_in_the_order_of_their_change(
    api: Api, entity: str
) -> None:
    held = [record["id"] for record in api.sandbox.account("acme").entities[entity]]
    chosen = [held[4], held[1], held[3]]
    begun = await later(api)
    for record in chosen:
        await change(api, "update_record", entity=entity, id=record, values={"name": f"Changed {record}"})
        await later(api, 60)
    query = f"{entity}?filter[updated_at][from]={begun}&order[updated_at]=asc"
    found = await api.read_all(query, entity, limit=2)
    assert [record["id"] for record in found] == chosen
    assert [record["id"] for record in await api.read_all(query.replace("asc", "desc"), entity)] == chosen[
        ::-1
    ]
    middle = found[1]["updated_at"]
    assert [
        record["id"] for record in await api.read_all(f"{query}&filter[updated_at][to]={middle}", entity)
    ] == chosen[:2]


async def test_tasks_changed_since_a_moment_are_found_but_cannot_be_ordered_by_it(api: Api) -> None:
    first, second = [record["id"] for record in api.sandbox.account("acme").tasks][:2]
    begun = await later(api)
    await change(api, "update_record", entity="tasks", id=second, values={"text": "Sooner"})
    await later(api, 60)
    await change(api, "update_record", entity="tasks", id=first, values={"text": "Later"})
    found = await api.read_all(f"tasks?filter[updated_at][from]={begun}&order[updated_at]=asc", "tasks")
    assert [task["id"] for task in found] == [first, second]  # by id: there is no such order [D]


async def test_the_event_list_tells_of_every_kind_of_change_and_can_be_asked_for_kinds_and_times(
    api: Api,
) -> None:
    account = api.sandbox.account("acme")
    lead = next(iter(account.entities["leads"]))["id"]
    contact = next(iter(account.entities["contacts"]))["id"]
    company = next(iter(account.entities["companies"]))["id"]
    task, other_task = [record["id"] for record in account.tasks][:2]
    begun = await later(api)
    for entity, record in (("leads", lead), ("contacts", contact), ("companies", company), ("tasks", task)):
        await change(api, "delete_record", entity=entity, id=record)
    await later(api)
    await change(api, "restore_record", entity="leads", id=lead)
    await change(
        api,
        "update_record",
        entity="tasks",
        id=other_task,
        values={"is_completed": True, "result": {"text": "Reached"}, "complete_till": 1_800_000_000},
    )
    kinds = ("lead_deleted", "contact_deleted", "company_deleted", "task_deleted")
    asked = "&".join(f"filter[type][]={kind}" for kind in kinds)
    found = await api.read_all(f"events?{asked}&filter[created_at][from]={begun}", "events", limit=3)
    assert {(event["type"], event["entity_id"]) for event in found} == {
        ("lead_deleted", lead),
        ("contact_deleted", contact),
        ("company_deleted", company),
        ("task_deleted", task),
    }
    assert all(isinstance(event["id"], str) for event in found)
    later_ones = await api.read_all(f"events?filter[created_at][from]={begun + HOUR}", "events", limit=100)
    assert {event["type"] for event in later_ones} == {
        "lead_restored",
        "task_completed",
        "task_result_added",
        "task_deadline_changed",
    }
    narrow = f"events?filter[type]=lead_deleted,lead_restored&filter[entity]=lead&filter[entity_id][]={lead}"
    assert [event["type"] for event in await api.read_all(narrow, "events", limit=1)] == [
        "lead_restored",
        "lead_deleted",
    ]
    assert (await api.get(f"events?{asked}&filter[created_at][to]={begun - 1}")).status_code == 204
    assert (await api.get("events?limit=101")).status_code == 422


async def test_a_deleted_contact_leaves_the_lists_until_it_is_restored_and_is_newer_then(api: Api) -> None:
    contact = next(iter(api.sandbox.account("acme").entities["contacts"]))["id"]
    await change(api, "delete_record", entity="contacts", id=contact)
    assert (await api.get(f"contacts/{contact}")).status_code == 204
    moment = await later(api)
    await change(api, "restore_record", entity="contacts", id=contact)
    found = await api.read_all(f"contacts?filter[updated_at][from]={moment}", "contacts")
    assert [record["id"] for record in found] == [contact]


async def test_elements_of_lists_come_change_and_go(api: Api) -> None:
    catalog = next(iter(api.sandbox.account("acme").catalogs))["id"]
    heard: list[str] = []
    api.sandbox.world.listeners.append(lambda told: heard.append(f"{told.entity}.{told.action}"))
    made = (await change(api, "add_element", catalog_id=catalog, name="Desk"))["id"]
    await change(api, "update_element", catalog_id=catalog, id=made, name="Table")
    assert (await api.get(f"catalogs/{catalog}/elements/{made}")).json()["name"] == "Table"
    await change(api, "delete_element", catalog_id=catalog, id=made)
    assert (await api.get(f"catalogs/{catalog}/elements/{made}")).status_code == 204
    assert heard == ["elements.add", "elements.update", "elements.delete"]
