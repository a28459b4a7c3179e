"""What the sandbox sends when its data change: bodies, headers, who gets what, and all the odd shapes."""

import asyncio
import json
from pathlib import Path

import pytest

from sandbox import sandbox_in_thread
from sandbox.fidelity import judge
from sandbox.fidelity_webhooks import HOOKS
from tests.sandbox.support import SMALL, Api
from tests.sandbox.webhook_support import Receiver, change, first, php, receiving, settled, subscribe

SAMPLES = Path(__file__).parent.parent / "samples"
MANIFEST = json.loads((SAMPLES / "manifest.json").read_text(encoding="utf-8"))["samples"]


def events(receiver: Receiver) -> list[tuple[str, str]]:
    """Word and action of everything that came."""
    return [
        (word, action)
        for hit in receiver.hits
        for word, actions in hit.decoded().items()
        if word != "account"
        for action in actions
    ]


@pytest.mark.parametrize("file", sorted(HOOKS))
def test_a_webhook_has_the_shape_of_the_published_sample(file: str) -> None:
    kind = next(entry["kind"] for entry in MANIFEST if entry["file"] == file)
    assert judge(SAMPLES, file, kind).notes == ()


def test_no_published_webhook_is_left_out_but_that_of_templates() -> None:
    published = {
        entry["file"]
        for entry in MANIFEST
        if entry["kind"].startswith("webhook") and entry["kind"] != "webhook.headers"
    }
    assert published - HOOKS.keys() == {"wh_amo_chat_template_review.json"}


async def test_the_headers_are_those_of_the_capture_and_nothing_is_signed(
    api: Api, receiver: Receiver
) -> None:
    await subscribe(api, receiver, "add_lead")
    await change(api, "add_record", entity="leads", values={"name": "New"})
    await settled(api)
    [hit] = receiver.hits
    captured = json.loads((SAMPLES / "wh_headers_2025.json").read_text(encoding="utf-8"))["headers"]
    assert set(hit.headers) == {*captured, "host"}
    for name in ("accept-encoding", "content-type", "user-agent"):
        assert hit.headers[name] == captured[name]
    assert hit.headers["content-length"] == str(len(hit.body))


async def test_a_new_lead_comes_form_encoded_as_php_writes_it_account_first(
    api: Api, receiver: Receiver
) -> None:
    await subscribe(api, receiver, "add_lead")
    made = await change(
        api, "add_record", entity="leads", values={"name": "Größe & “Preis” ~ 50%=½ 🎉 مرحبا", "price": 7}
    )
    await settled(api)
    body = receiver.hits[0].body
    assert body.startswith(b"account%5Bsubdomain%5D=acme&account%5Bid%5D=")
    assert b"leads%5Badd%5D%5B0%5D%5Bname%5D=Gr%C3%B6%C3%9Fe+%26+" in body
    assert b"+%7E+50%25%3D" in body
    account, lead = api.sandbox.account("acme"), receiver.hits[0].decoded()["leads"]["add"]["0"]
    stored = account.entities["leads"].get(made["id"]) or {}
    assert receiver.hits[0].decoded()["account"] == {
        "subdomain": "acme",
        "id": str(account.id),
        "_links": {"self": account.url},
    }
    assert lead["name"] == "Größe & “Preis” ~ 50%=½ 🎉 مرحبا"
    for key, same in (("price", "price"), ("date_create", "created_at"), ("last_modified", "updated_at")):
        assert lead[key] == str(stored[same])


async def test_one_edit_is_three_webhooks_and_each_names_what_was_before(
    api: Api, receiver: Receiver
) -> None:
    await subscribe(api, receiver, "update_lead", "status_lead", "responsible_lead")
    account, lead_id = api.sandbox.account("acme"), first(api, "leads")
    before = account.entities["leads"].get(lead_id) or {}
    other = next(user["id"] for user in account.users if user["id"] != before["responsible_user_id"])
    stage = 142 if before["status_id"] != 142 else 143
    await api.patch(f"leads/{lead_id}", {"status_id": stage, "responsible_user_id": other})
    await settled(api)
    assert sorted(events(receiver)) == [("leads", "responsible"), ("leads", "status"), ("leads", "update")]
    for hit in receiver.hits:
        [(action, items)] = hit.decoded()["leads"].items()
        assert items["0"]["old_status_id"] == str(before["status_id"])
        expected = str(before["responsible_user_id"]) if action == "responsible" else None
        assert items["0"].get("old_responsible_user_id") == expected


async def test_a_write_of_ones_own_comes_back_with_the_tokens_user(api: Api, receiver: Receiver) -> None:
    await subscribe(api, receiver, "update_lead")
    account, lead_id = api.sandbox.account("acme"), first(api, "leads")
    await api.patch(f"leads/{lead_id}", {"price": 1})
    await change(api, "update_record", entity="leads", id=lead_id, values={"price": 2})
    await change(api, "update_record", entity="leads", id=lead_id, values={"price": 3}, user_id=0)
    await settled(api)
    who = {
        hit.decoded()["leads"]["update"]["0"]["price"]: hit.decoded()["leads"]["update"]["0"][
            "modified_user_id"
        ]
        for hit in receiver.hits
    }
    assert who["1"] == str(account.admin_id)
    assert who["2"] not in {str(account.admin_id), "0"}
    assert who["3"] == "0"


async def test_only_what_was_subscribed_is_sent_and_only_while_it_is(api: Api, receiver: Receiver) -> None:
    lead_id = first(api, "leads")
    await change(api, "update_record", entity="leads", id=lead_id, values={"price": 1})
    hook = await subscribe(api, receiver, "status_lead", path="/a")
    await subscribe(api, receiver, "update_lead", path="/b")
    await change(api, "update_record", entity="leads", id=lead_id, values={"price": 2})
    await settled(api)
    assert [hit.target for hit in receiver.hits] == ["/b"]
    await change(api, "update_record", entity="leads", id=lead_id, values={"status_id": 143})
    await settled(api)
    assert sorted(hit.target for hit in receiver.hits) == ["/a", "/b", "/b"]
    await api.send("DELETE", "webhooks", body={"destination": hook["destination"]})
    await change(api, "update_record", entity="leads", id=lead_id, values={"status_id": 142})
    await change(
        api,
        "update_record",
        account="globex",
        entity="leads",
        id=first(api, "leads", "globex"),
        values={"name": "x"},
    )
    await settled(api)
    assert sorted(hit.target for hit in receiver.hits) == ["/a", "/b", "/b", "/b"]


async def test_contacts_and_companies_share_a_word_and_tasks_have_a_singular_one(
    api: Api, receiver: Receiver
) -> None:
    await subscribe(api, receiver)
    contact, company = first(api, "contacts"), first(api, "companies")
    account = api.sandbox.account("acme")
    for entity, record in (("contacts", contact), ("companies", company)):
        held = account.entities[entity].get(record) or {}
        owner = next(user["id"] for user in account.users if user["id"] != held["responsible_user_id"])
        await change(api, "update_record", entity=entity, id=record, values={"responsible_user_id": owner})
    await settled(api)
    found = [hit.decoded()["contacts"]["update"]["0"] for hit in receiver.hits]
    assert sorted(item["type"] for item in found) == ["company", "company", "contact", "contact"]
    assert sum("old_responsible_user_id" in item for item in found) == 2
    receiver.hits.clear()
    task = await change(
        api, "add_record", entity="tasks", values={"text": "Call", "complete_till": 1_759_438_740}
    )
    done = {"is_completed": True, "result": {"text": "Done"}}
    await change(api, "update_record", entity="tasks", id=task["id"], values=done)
    await change(api, "delete_record", entity="tasks", id=task["id"])
    await settled(api)
    assert events(receiver).count(("task", "update")) == 2  # completed with a result: two hooks
    assert ("task", "add") in events(receiver)
    assert ("task", "delete") in events(receiver)
    deleted = next(hit for hit in receiver.hits if b"delete" in hit.body).decoded()
    assert deleted["task"]["delete"]["0"] == {"id": str(task["id"])}


@pytest.mark.parametrize("entity", ["leads", "contacts", "companies"])
async def test_deleted_and_restored_records_are_told(api: Api, receiver: Receiver, entity: str) -> None:
    await subscribe(api, receiver)
    record = first(api, entity)
    await change(api, "delete_record", entity=entity, id=record)
    await settled(api)
    await change(api, "restore_record", entity=entity, id=record)
    await settled(api)
    word = "leads" if entity == "leads" else "contacts"
    assert events(receiver) == [(word, "delete"), (word, "restore")]
    gone = receiver.hits[0].decoded()[word]["delete"]["0"]
    if entity == "leads":
        assert set(gone) == {"id", "status_id", "pipeline_id"}
    else:
        assert gone == {"id": str(record), "type": {"contacts": "contact", "companies": "company"}[entity]}


async def test_messages_talks_and_incoming_leads_are_told(api: Api, receiver: Receiver) -> None:
    await subscribe(api, receiver)
    lead_id = first(api, "leads")
    told = await change(api, "incoming_message", text="Hello?\n¿Qué?", lead_id=lead_id)
    await settled(api)
    assert sorted(events(receiver)) == [("message", "add"), ("talk", "add")]
    message = next(hit for hit in receiver.hits if hit.body.find(b"&message") > 0).decoded()["message"][
        "add"
    ]["0"]
    assert (message["text"], message["entity_id"], message["talk_id"]) == (
        "Hello?\n¿Qué?",
        str(lead_id),
        str(told["talk_id"]),
    )
    receiver.hits.clear()
    await api.post(f"talks/{told['talk_id']}/send_message", {"text": "Hi"})
    await api.post(f"talks/{told['talk_id']}/close", {"force_close": True})
    uid = next(iter(api.sandbox.account("acme").unsorted))
    await api.send("DELETE", f"leads/unsorted/{uid}/decline")
    await settled(api)
    assert sorted(events(receiver)) == [("message", "add"), ("talk", "update"), ("unsorted", "delete")]
    bodies = {
        word: hit.decoded()[word] for hit in receiver.hits for word in hit.decoded() if word != "account"
    }
    assert bodies["message"]["add"]["0"]["type"] == "outgoing"
    assert bodies["talk"]["update"]["0"]["is_in_work"] == "0"
    assert bodies["unsorted"]["delete"]["0"]["action"] == "decline"
    assert "decline_result" in bodies["unsorted"]["delete"]["0"]


async def test_several_entities_share_a_body_when_asked_for(api: Api, receiver: Receiver) -> None:
    await subscribe(api, receiver)
    await api.control("POST", "webhooks/settings", {"bundle": 7, "paused": True})
    leads = [record["id"] for record in api.sandbox.account("acme").entities["leads"]][:12]
    await api.patch("leads", [{"id": record, "price": 5} for record in leads])
    await change(api, "add_note", entity="contacts", id=first(api, "contacts"), text="n")
    await api.control("POST", "webhooks/settings", {"paused": False})
    await settled(api)
    assert len(receiver.hits) < 13
    ids = [
        item["id"]
        for hit in receiver.hits
        for item in hit.decoded().get("leads", {}).get("update", {}).values()
    ]
    assert sorted(ids) == sorted(map(str, leads))
    assert any(len(hit.decoded().get("leads", {}).get("update", {})) > 1 for hit in receiver.hits)


async def test_the_odd_shapes_of_the_fact_sheet_come_when_asked_for(api: Api, receiver: Receiver) -> None:
    await subscribe(api, receiver)
    settings = {"account_block": "last", "plain_brackets": True, "empty_nulls": True, "odd_notes": True}
    await api.control("POST", "webhooks/settings", settings | {"self_domain": "amocrm.com"})
    await change(api, "add_note", entity="leads", id=first(api, "leads"), text="n")
    await change(api, "incoming_message", text="x", lead_id=None)
    await settled(api)
    note = next(hit.body.decode() for hit in receiver.hits if b"[note]" in hit.body)
    assert "leads[note][0][note][type]=3&leads[note][0][note][type][message_uuid]=" in note
    assert note.endswith("&account[_links][self]=https%3A%2F%2Facme.amocrm.com")
    talk = next(hit.body.decode() for hit in receiver.hits if b"talk[add]" in hit.body)
    assert "&talk[add][0][entity_id]=&talk[add][0][entity_type]=&" in talk
    message = next(hit.decoded() for hit in receiver.hits if hit.body.startswith(b"message"))
    assert not {"entity_id", "element_id"} & set(message["message"]["add"]["0"])


async def test_any_body_can_be_sent_by_hand_and_the_automation_of_a_stage(
    api: Api, receiver: Receiver
) -> None:
    await subscribe(api, receiver, "add_lead")
    await api.control("POST", "webhooks/send", {"raw": "leads%5B=%00&x"})
    await api.control("POST", "webhooks/send", {"nested": {"strange": {"5": [{"a": None, "b": True}]}}})
    lead_id = first(api, "leads")
    await api.control("POST", "webhooks/stage", {"lead_id": lead_id, "action": "mail_in"})
    await settled(api)
    bodies = {hit.body for hit in receiver.hits}
    assert b"leads%5B=%00&x" in bodies
    assert any(php(body.decode()).get("strange") == {"5": {"0": {"b": "1"}}} for body in bodies)
    stage = next(php(body.decode()) for body in bodies if b"mail_in" in body)
    assert set(stage["account"]) == {"id", "subdomain"}
    assert set(stage["leads"]["mail_in"]["0"]) == {"id", "status_id", "pipeline_id"}


async def test_writing_does_not_wait_for_whoever_receives(api: Api, receiver: Receiver) -> None:
    released = asyncio.Event()
    receiver.before = released.wait
    await subscribe(api, receiver, "update_lead")
    await api.control("POST", "webhooks/settings", {"seconds": 60, "concurrency": 4})
    for price in range(60):
        answer = await api.patch(f"leads/{first(api, 'leads')}", {"price": price})
        assert answer.status_code == 200
    assert (await api.control("GET", "webhooks?limit=0"))["counts"]["delivered"] == 0
    assert len(receiver.hits) <= 4
    released.set()
    assert (await settled(api))["delivered"] == 60
    assert receiver.connections <= 4


async def test_many_changes_are_made_quickly_and_each_is_sent(api: Api, receiver: Receiver) -> None:
    for account in ("acme", "globex"):
        await subscribe(api, receiver, account=account)
    kinds = ["update", "status", "responsible", "edit", "add", "delete", "restore"]
    made = await api.control("POST", "load", {"accounts": 2, "changes": 280, "records": 5, "kinds": kinds})
    assert made["changes"] == 280
    counts = await settled(api)
    assert counts["delivered"] == counts["made"] == len(receiver.hits)
    assert {action for _, action in events(receiver)} == {
        "update",
        "status",
        "responsible",
        "add",
        "delete",
        "restore",
    }
    names = {hit.decoded()["account"]["subdomain"] for hit in receiver.hits}
    assert names == {"acme", "globex"}
    distinct = {
        (hit.decoded()["account"]["id"], hit.decoded()["leads"][action]["0"]["id"])
        for hit in receiver.hits
        for action in hit.decoded()["leads"]
    }
    assert len(distinct) == 2 * (5 + 20)


async def test_changes_come_at_the_rate_asked_for_while_the_caller_goes_on(
    api: Api, receiver: Receiver
) -> None:
    await subscribe(api, receiver, "update_lead")
    asked = {"changes": 20, "rate": 100, "background": True}
    assert await api.control("POST", "load", asked) == {"started": True}
    assert len(receiver.hits) < 20
    await receiver.got(20)


def test_a_change_from_another_thread_is_sent_too() -> None:
    async def collect() -> list[bytes]:
        async with receiving() as found:
            await asyncio.to_thread(change_from_here, found.url)
            await found.got(1)
            return [hit.body for hit in found.hits]

    def change_from_here(url: str) -> None:
        account = sandbox.account("acme")
        account.webhooks.add(
            {"id": 1, "destination": f"{url}/x", "disabled": False, "settings": ["delete_lead"]}
        )
        lead_id = next(iter(account.entities["leads"]))["id"]
        sandbox.change("acme", "delete_record", entity="leads", id=lead_id)

    with sandbox_in_thread(SMALL) as sandbox:
        [body] = asyncio.run(collect())
    assert b"leads%5Bdelete%5D" in body
