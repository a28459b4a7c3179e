"""How to make the sandbox send the webhook of each published sample, and where it may differ, with the reason."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from sandbox.changes import apply
from sandbox.control_webhooks import WebhookControl
from sandbox.fidelity_cases import Probe
from sandbox.query import nested
from sandbox.routes.hooks import EVENTS
from sandbox.state import Record

_HOST = "romashka"  # amoCRM's flavour: nearly all samples are older than the newest keys of Kommo
_HOOK = "http://127.0.0.1:9/hook"


@dataclass(frozen=True)
class HookCase:
    """How one sample is reproduced.

    Args:
        make: Changes something.
        name: Subscription whose delivery is to be compared; the last one counts.
        allowed: Path → why a key may be on one side only.
        settings: How webhooks are sent.
        host: Account.
    """

    make: Callable[[Probe, str], object]
    name: str
    allowed: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    host: str = _HOST


def decoded(body: str) -> object:
    """A form body as nested values, comparable with a printed one (see `comparable`)."""
    return comparable(nested(parse_qsl(body, keep_blank_values=True)))


def comparable(value: object) -> object:
    """Every plain value as text, and a list where all keys are numbers: indexes and ids alike."""
    if isinstance(value, dict):
        if value and all(re.fullmatch(r"\d+", key) for key in value):
            return [comparable(inner) for inner in value.values()]
        return {key: comparable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [comparable(inner) for inner in value]
    return "" if value is None else str(value)


def sent(case: HookCase) -> object:
    """The body that the sandbox sends in a case, decoded.

    Args:
        case: What to do.

    Raises:
        LookupError: It sends none.
    """
    probe = Probe()
    probe.world.webhooks.configure(**case.settings)
    hook = {"destination": _HOOK, "settings": sorted(EVENTS)}
    probe.json("POST", case.host, "/api/v4/webhooks", hook)
    case.make(probe, case.host)
    probe.world.webhooks.prepare()
    found = [known.body for known in probe.world.webhooks.log if case.name in known.names]
    if not found:
        raise LookupError(f"nothing was sent for {case.name}")
    return decoded(found[-1].decode("ascii"))


def _change(probe: Probe, host: str, change: str, **arguments: object) -> int:
    return int(apply(probe.world, probe.account(host), change, arguments).get("id", 0))


def _values(probe: Probe, host: str, entity: str, *wanted: str) -> list[Record]:
    """Custom field values by type or code."""
    account, found = probe.account(host), []
    samples = {
        "date": 1_729_717_200,
        "birthday": 316_483_200,
        "checkbox": True,
        "PHONE": "1",
        "EMAIL": "a@example.com",
    }
    for word in wanted:
        known = next(held for held in account.fields[entity] if word in {held["type"], held["code"]})
        value: Record = {"value": samples.get(word, "12")}
        if known["enums"] and known["type"] != "multitext":
            value = {"enum_id": known["enums"][0]["id"]}
        found.append({"field_id": known["id"], "values": [value]})
    return found


_LEAD = ("monetary", "text", "numeric", "checkbox", "date", "select")


def _add_lead(*fields: str, **values: object) -> Callable[[Probe, str], int]:
    def make(probe: Probe, host: str) -> int:
        own = {"name": "Lead", "custom_fields_values": _values(probe, host, "leads", *fields)} | values
        return _change(probe, host, "add_record", entity="leads", values=own)

    return make


def _edit_lead(probe: Probe, host: str, *fields: str, **more: object) -> None:
    """One edit of a lead that moves its stage and, if asked for, changes its responsible user."""
    lead = _add_lead(*fields)(probe, host)
    _change(probe, host, "update_record", entity="leads", id=lead, values={"status_id": 142} | more)


def _new_owner(probe: Probe, host: str) -> None:
    owner = probe.account(host).admin_id
    _edit_lead(probe, host, "monetary", "text", "numeric", "select", "date", responsible_user_id=owner)


def _changed_fields(probe: Probe, host: str) -> None:
    lead = _add_lead("text", "numeric")(probe, host)
    _change(probe, host, "update_record", entity="leads", id=lead, values={"price": 9_919})


def _there_and_back(entity: str, *fields: str) -> Callable[[Probe, str], None]:
    """Added, deleted, restored."""

    def make(probe: Probe, host: str) -> None:
        add = _add_lead(*fields) if entity == "leads" else _add_person(entity, *fields)
        record = add(probe, host)
        _change(probe, host, "delete_record", entity=entity, id=record)
        _change(probe, host, "restore_record", entity=entity, id=record)

    return make


_PERSON = ("PHONE", "EMAIL", "birthday", "text", "radiobutton")


def _add_person(entity: str, *fields: str, **values: object) -> Callable[[Probe, str], int]:
    def make(probe: Probe, host: str) -> int:
        own = {"name": "Somebody", "custom_fields_values": _values(probe, host, entity, *fields)} | values
        return _change(probe, host, "add_record", entity=entity, values=own)

    return make


def _linked_contact(probe: Probe, host: str) -> None:
    links = {name: [{"id": probe.any_id(host, name)}] for name in ("companies", "leads")}
    _add_person("contacts", "PHONE", _embedded=links)(probe, host)


def _linked_company(probe: Probe, host: str) -> None:
    _add_person("companies", _embedded={"leads": [{"id": probe.any_id(host, "leads")}]})(probe, host)


def _note(entity: str) -> Callable[[Probe, str], object]:
    return lambda probe, host: _change(
        probe, host, "add_note", entity=entity, id=probe.any_id(host, entity), text="x"
    )


def _task(probe: Probe, host: str) -> int:
    own = {
        "text": "Call back",
        "complete_till": 1_759_438_740,
        "entity_id": probe.any_id(host, "leads"),
        "entity_type": "leads",
    }
    return _change(probe, host, "add_record", entity="tasks", values=own)


def _edit_task(**values: object) -> Callable[[Probe, str], object]:
    return lambda probe, host: _change(
        probe, host, "update_record", entity="tasks", id=_task(probe, host), values=values
    )


def _delete_task(probe: Probe, host: str) -> None:
    _change(probe, host, "delete_record", entity="tasks", id=_task(probe, host))


def _new_task_owner(probe: Probe, host: str) -> None:
    _edit_task(responsible_user_id=probe.account(host).admin_id)(probe, host)


def _message(*, lead: bool, picture: str = "") -> Callable[[Probe, str], None]:
    def make(probe: Probe, host: str) -> None:
        lead_id = probe.any_id(host, "leads") if lead else None
        _change(probe, host, "incoming_message", text="Hello!", lead_id=lead_id, picture=picture)

    return make


def _unsorted(probe: Probe, host: str) -> None:
    metadata = {"form_id": 1, "form_name": "F", "form_page": "https://example.com/", "form_sent_at": 1}
    element = {"source_uid": "u", "source_name": "Site", "metadata": metadata | {"ip": "192.0.2.1"}}
    probe.json("POST", host, "/api/v4/leads/unsorted/forms", [element])


def _accepted(probe: Probe, host: str) -> None:
    uid = next(iter(probe.account(host).unsorted))
    probe.json("POST", host, f"/api/v4/leads/unsorted/{uid}/accept", {})


def _list_element(probe: Probe, host: str) -> None:
    entry = {"field_id": 771_934, "field_name": "Unit", "field_code": "UNIT"}
    fields = [entry | {"values": [{"value": "kg", "enum_id": 552_500}]}]
    catalog = next(iter(probe.account(host).catalogs))["id"]
    _change(probe, host, "add_element", catalog_id=catalog, name="Item 1", fields=fields)


def _stage(action: str, **more: object) -> Callable[[Probe, str], object]:
    def make(probe: Probe, host: str) -> object:
        body = {"account": host, "lead_id": probe.any_id(host, "leads"), "action": action} | more
        return WebhookControl(probe.world).actions["POST", "webhooks/stage"](body)

    return make


_DOCS = {"account": "the documentation leaves the account out; on the wire it is always there (6.1)"}
_EARLY = "not in the hooks of those years (6.1)"
_MOVED = {"old_status_id": 1, "old_pipeline_id": 2}

HOOKS: dict[str, HookCase] = {
    "wh_amo_contact_add.json": HookCase(_linked_contact, "add_contact", _DOCS),
    "wh_catalogs_add_doc.json": HookCase(_list_element, "lists", _DOCS, {"lists": True}),
    "wh_company_add_doc.json": HookCase(_linked_company, "add_company", _DOCS),
    "wh_company_delete_doc.json": HookCase(_there_and_back("companies"), "delete_company", _DOCS),
    "wh_company_note_doc.json": HookCase(_note("companies"), "note_company", _DOCS),
    "wh_contacts_add_2016_raw.txt": HookCase(
        _add_person("contacts"),
        "add_contact",
        {f"contacts.add[].{key}": _EARLY for key in ("account_id", "created_at", "updated_at")},
        {"account_block": "subdomain"},
    ),
    "wh_contacts_add_2025_raw.txt": HookCase(_add_person("contacts"), "add_contact"),
    "wh_contacts_add_doc.json": HookCase(_add_person("contacts", *_PERSON), "add_contact", _DOCS),
    "wh_contacts_delete_doc.json": HookCase(_there_and_back("contacts"), "delete_contact", _DOCS),
    "wh_contacts_restore_doc.json": HookCase(_there_and_back("contacts", *_PERSON), "restore_contact", _DOCS),
    "wh_dotzero_status_lead.json": HookCase(
        _edit_lead,
        "status_lead",
        {f"leads.status[].{key}": _EARLY for key in ("created_at", "updated_at")},
        {"account_block": "subdomain"},
    ),
    "wh_dp_leads_add_minimal_kommo_raw.txt": HookCase(_stage("add"), "stage"),
    "wh_dp_leads_status_raw.txt": HookCase(_stage("status", **_MOVED), "stage"),
    "wh_dp_status_doc.json": HookCase(_stage("status", **_MOVED), "stage", _DOCS),
    "wh_leads_add_2025_raw.txt": HookCase(_add_lead(), "add_lead"),
    "wh_leads_add_doc.json": HookCase(_add_lead(*_LEAD[:5]), "add_lead", _DOCS),
    "wh_leads_delete_doc.json": HookCase(_there_and_back("leads"), "delete_lead", _DOCS),
    "wh_leads_note_text_doc.json": HookCase(_note("leads"), "note_lead", _DOCS),
    "wh_leads_responsible_doc.json": HookCase(_new_owner, "responsible_lead", _DOCS),
    "wh_leads_restore_doc.json": HookCase(_there_and_back("leads", "monetary"), "restore_lead", _DOCS),
    "wh_leads_status_2021_raw.txt": HookCase(
        lambda probe, host: _edit_lead(
            probe, host, "text", "date", "select", _embedded={"tags": [{"name": "Sasa"}]}
        ),
        "status_lead",
        settings={"account_block": "last"},
    ),
    "wh_leads_status_doc.json": HookCase(
        lambda probe, host: _edit_lead(probe, host, *_LEAD), "status_lead", _DOCS
    ),
    "wh_leads_status_doc_flat_raw.txt": HookCase(
        _edit_lead, "status_lead", settings={"account_block": "last"}
    ),
    "wh_leads_update_2025_raw.txt": HookCase(_changed_fields, "update_lead"),
    "wh_leads_update_doc.json": HookCase(
        lambda probe, host: _edit_lead(probe, host, *_LEAD[:5]), "update_lead", _DOCS
    ),
    "wh_message_add_doc.json": HookCase(
        _message(lead=True, picture="https://example.com/p.jpg"), "add_message", _DOCS
    ),
    "wh_message_add_onlinechat_no_entity_2024_raw.txt": HookCase(_message(lead=False), "add_message"),
    "wh_message_add_telegram_2023_raw.txt": HookCase(
        _message(lead=True, picture="https://example.com/p.jpg"), "add_message"
    ),
    "wh_talk_add_doc.json": HookCase(_message(lead=True), "add_talk", _DOCS),
    "wh_task_add_doc.json": HookCase(_task, "add_task", _DOCS),
    "wh_task_delete_doc.json": HookCase(_delete_task, "delete_task", _DOCS),
    "wh_task_responsible_as_update_doc.json": HookCase(_new_task_owner, "responsible_task", _DOCS),
    "wh_task_update_complete_doc.json": HookCase(_edit_task(is_completed=True), "update_task", _DOCS),
    "wh_unsorted_add_doc.json": HookCase(_unsorted, "add_unsorted", _DOCS),
    "wh_unsorted_delete_accept_doc.json": HookCase(_accepted, "delete_unsorted", _DOCS),
}
