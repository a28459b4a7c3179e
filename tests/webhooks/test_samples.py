"""Every real webhook that was collected is read without losing a value."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from kommo.webhooks import Delivery, parse
from tests.webhooks.encoding import encode, leaves, name_of

SAMPLES = Path(__file__).parent.parent / "samples"
FORM = "application/x-www-form-urlencoded"
RAW = sorted(SAMPLES.glob("wh_*_raw.txt"))
DECODED = sorted(path for path in SAMPLES.glob("wh_*.json") if "headers" not in path.name)


def found_in(delivery: Delivery) -> list[tuple[str, Any]]:
    """(last names, value) of everything that the delivery holds, wherever it is."""
    parts = [*(event.payload for event in delivery.events), delivery.rest]
    return [(path[-1], value) for part in parts for path, value in leaves(part)]


def last_of(name: str) -> str:
    return name.rpartition("[")[2].rstrip("]")


def test_the_samples_are_here() -> None:
    assert len(RAW) >= 8
    assert len(DECODED) >= 25


@pytest.mark.parametrize("path", RAW, ids=lambda path: path.stem)
def test_each_field_of_a_captured_body_is_found(path: Path) -> None:
    body = path.read_bytes()
    fields = [(last_of(name), value) for name, value in parse_qsl(body.decode(), keep_blank_values=True)]
    delivery = parse(body, FORM)
    assert sorted(found_in(delivery)) == sorted(fields)
    assert delivery.events


@pytest.mark.parametrize("path", RAW, ids=lambda path: path.stem)
def test_each_field_of_a_captured_body_keeps_its_place(path: Path) -> None:
    body = path.read_bytes()
    fields = dict(parse_qsl(body.decode(), keep_blank_values=True))
    delivery = parse(body, FORM)
    assert len(delivery.events) == 1
    event = delivery.events[0]
    inside = {name_of(("x", *names)): value for names, value in leaves(event.payload)}
    outside = {name_of(names): value for names, value in leaves(delivery.rest)}
    head = next(name for name in fields if not name.startswith("account")).split("[0]")[0] + "[0]"
    assert {name.replace("x", head, 1): value for name, value in inside.items()} | outside == fields


@pytest.mark.parametrize("path", DECODED, ids=lambda path: path.stem)
def test_each_value_of_a_documented_body_survives_as_a_form_and_as_json(path: Path) -> None:
    wanted = json.loads(path.read_text())
    as_form = parse(encode(wanted), FORM)
    as_json = parse(json.dumps(wanted).encode(), "application/json; charset=utf-8")
    values = sorted((names[-1], str(value)) for names, value in leaves(wanted))
    assert sorted((name, str(value)) for name, value in found_in(as_form)) == values
    assert sorted((name, str(value)) for name, value in found_in(as_json)) == values
    assert [(e.entity, e.action, e.entity_id, e.occurred_at) for e in as_form.events] == [
        (e.entity, e.action, e.entity_id, e.occurred_at) for e in as_json.events
    ]
    assert as_form.events


KINDS = {
    "wh_amo_chat_template_review": ("chat_template_reviews", "add", "6955"),
    "wh_amo_contact_add": ("contacts", "add", "10952709"),
    "wh_catalogs_add_doc": ("catalogs", "add", "347577"),
    "wh_company_add_doc": ("companies", "add", "17612521"),
    "wh_company_delete_doc": ("companies", "delete", "17612521"),
    "wh_company_note_doc": ("notes", "add", "4600623"),
    "wh_contacts_add_2016_raw": ("contacts", "add", "1112"),
    "wh_contacts_delete_doc": ("contacts", "delete", "17611273"),
    "wh_contacts_restore_doc": ("contacts", "restore", "17611273"),
    "wh_dotzero_status_lead": ("leads", "status", "8001508"),
    "wh_dp_leads_add_minimal_kommo_raw": ("leads", "add", "19030890"),
    "wh_dp_status_doc": ("leads", "status", "4831596"),
    "wh_leads_delete_doc": ("leads", "delete", "12345678"),
    "wh_leads_note_text_doc": ("notes", "add", "4600471"),
    "wh_leads_responsible_doc": ("leads", "responsible", "15318175"),
    "wh_message_add_doc": ("messages", "add", "660b5b93-4ead-ac38-3797c062146c"),
    "wh_message_add_onlinechat_no_entity_2024_raw": (
        "messages",
        "add",
        "b26bbe6d-a691-4a8b-b269-29df5fb9dbea",
    ),
    "wh_talk_add_doc": ("talks", "add", "191"),
    "wh_task_add_doc": ("tasks", "add", "1564671"),
    "wh_task_delete_doc": ("tasks", "delete", "1564885"),
    "wh_task_update_complete_doc": ("tasks", "update", "1564845"),
    "wh_unsorted_add_doc": (
        "unsorted",
        "add",
        "4278accf80c59e99411d5c6e01e4054864ca958e594699484ba8c5f40bb1",
    ),
    "wh_unsorted_delete_accept_doc": (
        "unsorted",
        "delete",
        "f575b754b0d1eb1c380e53d6821ffd2820a6dfbe3822de0cfddaf266980f",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_a_sample_says(name: str) -> None:
    path = next(path for path in (*RAW, *DECODED) if path.stem == name)
    body = path.read_bytes() if path.suffix == ".txt" else encode(json.loads(path.read_text()))
    (event,) = parse(body, FORM).events
    assert (event.entity, event.action, event.entity_id) == KINDS[name]
