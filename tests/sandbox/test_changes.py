"""The set-up changes as a person would change it, and what the API shows afterwards."""

from typing import Any

import pytest

from sandbox import SandboxConfig, sandbox_in_thread
from sandbox.changes import CHANGES
from tests.sandbox.support import SMALL, Api

Json = dict[str, Any]


async def change(api: Api, name: str, /, **arguments: Any) -> Json:
    result: Json = await api.control("POST", "change", {"account": "acme", "change": name, **arguments})
    return result


async def pipelines(api: Api) -> dict[int, Json]:
    listed = (await api.get("leads/pipelines")).json()["_embedded"]["pipelines"]
    return {pipeline["id"]: pipeline for pipeline in listed}


async def stages(api: Api, pipeline_id: int) -> dict[int, str]:
    found = (await pipelines(api))[pipeline_id]["_embedded"]["statuses"]
    return {stage["id"]: stage["name"] for stage in found}


async def test_stages_are_renamed_added_moved_and_deleted(api: Api) -> None:
    first, second, _ = await pipelines(api)
    added = (await change(api, "add_status", pipeline_id=first, name="Negotiation", sort=25))["status_id"]
    await change(api, "rename_status", pipeline_id=first, status_id=142, name="Yes!")
    after = await stages(api, first)
    assert (after[added], after[142]) == ("Negotiation", "Yes!")
    assert list(after).index(added) == 2
    await change(api, "move_status", pipeline_id=first, status_id=added, sort=5)
    assert next(iter(await stages(api, first))) == added
    await change(api, "move_status", pipeline_id=first, status_id=added, to_pipeline_id=second)
    assert added in await stages(api, second)
    await change(api, "delete_status", pipeline_id=second, status_id=added)
    assert added not in await stages(api, second)


async def test_pipelines_are_added_archived_renamed_made_main_and_deleted(api: Api) -> None:
    first = next(iter(await pipelines(api)))
    new = (await change(api, "add_pipeline", name="Partners"))["pipeline_id"]
    await change(api, "archive_pipeline", pipeline_id=first)
    await change(api, "rename_pipeline", pipeline_id=first, name="Old sales")
    await change(api, "set_main_pipeline", pipeline_id=new)
    found = await pipelines(api)
    assert (found[first]["is_archive"], found[first]["name"], found[first]["is_main"]) == (
        True,
        "Old sales",
        False,
    )
    assert found[new]["is_main"]
    await change(api, "delete_pipeline", pipeline_id=first)
    assert first not in await pipelines(api)
    assert not await api.read_all(f"leads?filter[pipeline_id][]={first}", "leads")


async def test_fields_and_their_choices_change(api: Api) -> None:
    made = await change(api, "add_field", entity="leads", name="Size", type="select", enums=["S", "M"])
    field_id = made["field_id"]

    async def field() -> Json:
        found: Json = (await api.get(f"leads/custom_fields/{field_id}")).json()
        return found

    small, medium = (await field())["enums"]
    await change(api, "rename_enum", entity="leads", field_id=field_id, enum_id=small["id"], value="Small")
    await change(api, "remove_enum", entity="leads", field_id=field_id, enum_id=medium["id"])
    await change(api, "add_enum", entity="leads", field_id=field_id, value="L")
    await change(api, "rename_field", entity="leads", field_id=field_id, name="Grösse")
    await change(api, "change_field_type", entity="leads", field_id=field_id, type="radiobutton")
    after = await field()
    assert [enum["value"] for enum in after["enums"]] == ["Small", "L"]
    assert (after["name"], after["type"]) == ("Grösse", "radiobutton")
    await change(api, "delete_field", entity="leads", field_id=field_id)
    assert (await api.get(f"leads/custom_fields/{field_id}")).status_code == 404


async def test_users_and_loss_reasons_come_and_go(api: Api) -> None:
    user_id = (await change(api, "add_user", name="New colleague"))["user_id"]
    await change(api, "deactivate_user", user_id=user_id)
    user = (await api.get(f"users/{user_id}")).json()
    assert (user["name"], user["rights"]["is_active"]) == ("New colleague", False)
    await change(api, "add_loss_reason", name="Moved away")
    reasons = await api.read_all("leads/loss_reasons", "loss_reasons")
    assert reasons[-1]["name"] == "Moved away"


async def test_a_deleted_lead_leaves_the_lists_until_it_is_restored(api: Api) -> None:
    lead_id = next(iter(api.sandbox.account("acme").entities["leads"]))["id"]
    await change(api, "delete_record", entity="leads", id=lead_id)
    assert (await api.get(f"leads/{lead_id}")).status_code == 204
    assert [lead["id"] for lead in await api.read_all("leads?with=only_deleted", "leads")] == [lead_id]
    await change(api, "restore_record", entity="leads", id=lead_id)
    assert (await api.get(f"leads/{lead_id}")).status_code == 200
    events = await api.read_all(
        f"events?filter[entity]=lead&filter[entity_id][]={lead_id}", "events", limit=100
    )
    assert {"lead_deleted", "lead_restored"} <= {event["type"] for event in events}


async def test_the_state_is_what_the_api_shows(api: Api) -> None:
    state = await api.control("GET", "state?account=acme&include=leads")
    assert state["pipelines"] == (await api.get("leads/pipelines")).json()["_embedded"]["pipelines"]
    assert state["leads_fields"] == sorted(
        await api.read_all("leads/custom_fields", "custom_fields"), key=lambda known: int(known["id"])
    )
    assert state["users"] == await api.read_all("users?with=role,group", "users")
    assert state["leads"] == await api.read_all("leads?with=contacts,loss_reason", "leads")
    assert state["counts"]["leads"] == len(state["leads"])


async def test_a_patch_overwrites_anything(api: Api) -> None:
    await change(api, "patch", kind="account", values={"name": "Renamed"})
    assert (await api.get("account")).json()["name"] == "Renamed"
    lead_id = next(iter(api.sandbox.account("acme").entities["leads"]))["id"]
    await change(api, "patch", kind="leads", id=lead_id, values={"price": 7})
    assert (await api.get(f"leads/{lead_id}")).json()["price"] == 7


def test_the_sandbox_runs_in_a_thread_for_code_without_an_event_loop() -> None:
    with sandbox_in_thread(SMALL) as sandbox:
        account = sandbox.account("acme")
        pipeline = next(iter(account.pipelines))["id"]
        sandbox.change("acme", "rename_pipeline", pipeline_id=pipeline, name="From outside")
        assert sandbox.port
        assert account.main_pipeline()["name"] == "From outside"


def test_a_sandbox_that_cannot_start_in_its_thread_says_so() -> None:
    with (
        sandbox_in_thread(SMALL) as sandbox,
        pytest.raises(OSError, match="address already in use"),
        sandbox_in_thread(SandboxConfig(port=sandbox.port)),
    ):
        pass


def test_every_change_has_a_docstring_for_those_who_steer() -> None:
    assert all(known.__doc__ for known in CHANGES.values())
