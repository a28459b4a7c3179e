"""Seeded leads, contacts, companies, tasks, notes, events, talks, incoming leads, lists.

Custom field values come from a small pool of ready lists that records share: a million leads then cost little
memory and little time. `custom_fields_values` is null for some and [] for a few, as seen in the documentation.
"""

import uuid
from collections.abc import Callable
from random import Random

from sandbox import names
from sandbox.config import SandboxConfig
from sandbox.state import LOST, SINGULAR, WON, Account, Collection, Record

_FIRST = {"leads": 15_318_175, "contacts": 17_611_273, "companies": 18_612_521, "customers": 134_923}
_POOL = 61
_SAMPLES = 40  # tasks, notes and events are made for so many leads, however many leads there are


def seed_records(
    account: Account, config: SandboxConfig, dice: Random, epoch: int, origins: tuple[str, ...]
) -> None:
    """Fill an account.

    Args:
        account: With users, pipelines, fields, tags.
        config: Sizes.
        dice: Seeded randomness.
        epoch: Unix seconds of the newest moment.
        origins: Origins of talks.
    """
    for entity, first in _FIRST.items():
        account.entities[entity] = Collection(first)
    account.entities["companies"].extend(_people(account, "companies", config.companies, dice, epoch))
    account.entities["contacts"].extend(_people(account, "contacts", config.contacts, dice, epoch))
    account.entities["leads"].extend(_leads(account, config.leads, dice, epoch))
    _join(account, dice)
    if account.flavour == "amo":
        account.entities["customers"].extend(_people(account, "customers", 5, dice, epoch))
    _around_leads(account, dice, epoch)
    _talks(account, config.talks if origins else 0, origins, dice, epoch)
    _unsorted(account, dice, epoch)
    _catalog(account, epoch)


def _moments(dice: Random, epoch: int) -> tuple[int, int]:
    made = epoch - dice.randrange(1, 10_000_000)
    return made, min(epoch, made + dice.randrange(0, 500_000))


def _value(definition: Record, dice: Random) -> list[Record]:
    kind, choices = definition["type"], definition["enums"]
    if kind in {"select", "radiobutton", "multiselect", "multitext"}:
        count = dice.randrange(1, 3) if kind in {"multiselect", "multitext"} else 1
        picked = dice.sample(choices, min(count, len(choices)))
        if kind == "multitext":
            return [_contact_value(definition["code"], enum, dice) for enum in picked]
        return [
            {"value": enum["value"], "enum_id": enum["id"], "enum_code": enum.get("code")} for enum in picked
        ]
    if kind == "smart_address":
        parts = zip(choices, ("Keizersgracht 1", "", "Amsterdam", "NH", "1015 CC", "NL"), strict=True)
        return [{"value": text, "enum_id": enum["id"], "enum_code": enum["code"]} for enum, text in parts]
    if kind == "chained_list":
        return [{"catalog_id": 1_001, "catalog_element_id": 12_235}]
    make = _SIMPLE.get(kind)
    return [{"value": make(dice) if make else f"text {dice.randrange(999)} ✓"}]


def _contact_value(code: str | None, enum: Record, dice: Random) -> Record:
    number = dice.randrange(10**8)
    text = f"person{number}@example.com" if code == "EMAIL" else f"+31 20 {number:08d}"
    return {"value": text, "enum_id": enum["id"], "enum_code": enum["value"]}


def _uuid(dice: Random) -> str:
    return str(uuid.UUID(int=dice.getrandbits(128), version=4))


_SIMPLE: dict[str, Callable[[Random], object]] = {
    "numeric": lambda dice: f"{dice.randrange(1, 99_999)}.5",  # numbers are read as text [D]
    "monetary": lambda dice: str(dice.randrange(1, 99_999)),
    "checkbox": lambda dice: dice.random() < 0.5,
    "date": lambda dice: 1_577_836_800 + 86_400 * dice.randrange(1_000),
    "date_time": lambda dice: 1_577_836_800 + dice.randrange(10**8),
    "birthday": lambda dice: 631_152_000 + 86_400 * dice.randrange(7_000),
    "url": lambda dice: f"https://example.com/{dice.randrange(999)}?q=a&b=ü",
    "textarea": lambda _: 'First line\nsecond line with "quotes" and a tab\t— مرحبا',
    "legal_entity": lambda dice: {
        "name": names.company(dice),
        "entity_type": 1,
        "vat_id": "NL000000000B01",
    },
    "file": lambda dice: {
        "file_uuid": _uuid(dice),
        "version_uuid": _uuid(dice),
        "file_name": "offer.pdf",
        "file_size": 2048,
    },
}
_NEARLY_ALWAYS = {"PHONE", "EMAIL"}


def field_entry(definition: Record, values: list[Record]) -> Record:
    """One element of `custom_fields_values` as it is read [D K/custom-fields-values]."""
    return {
        "field_id": definition["id"],
        "field_name": definition["name"],
        "field_code": definition["code"],
        "field_type": definition["type"],
        "values": values,
        **({"is_computed": definition["is_computed"]} if "is_computed" in definition else {}),
    }


def _pool(account: Account, entity: str, count: int, dice: Random) -> list[list[Record] | None]:
    """Ready values: null, [], one list with every field, and random ones; records take them in turn."""
    fields = list(account.fields[entity])
    pool: list[list[Record] | None] = [
        [field_entry(known, _value(known, dice)) for known in fields],
        None,
        [],
    ]
    while len(pool) < min(_POOL, count):
        chosen = [known for known in fields if known["code"] in _NEARLY_ALWAYS or dice.random() < 0.12]
        pool.append([field_entry(known, _value(known, dice)) for known in chosen] or None)
    return pool


def _people(account: Account, entity: str, count: int, dice: Random, epoch: int) -> list[Record]:
    users = [user["id"] for user in account.users]
    tags = [tag["id"] for tag in account.tags[entity]]
    collection, pool = account.entities[entity], _pool(account, entity, count, dice)
    records: list[Record] = []
    for number in range(count):
        made, changed = _moments(dice, epoch)
        record: Record = {"id": collection.next_id()}
        if entity == "contacts":
            first, last = names.person(dice)
            record |= {"name": f"{first} {last}", "first_name": first, "last_name": last}
        else:
            record["name"] = names.company(dice)
        record |= {
            "responsible_user_id": dice.choice(users),
            "group_id": 0,
            "created_by": dice.choice(users),
            "updated_by": dice.choice([0, *users]),
            "created_at": made,
            "updated_at": changed,
            "is_deleted": False,
            **({"is_unsorted": False} if entity == "contacts" else {}),
            "closest_task_at": None,
            "custom_fields_values": pool[number % len(pool)],
            "_tags": [dice.choice(tags)] if tags and dice.random() < 0.3 else [],
            "_company": None,
            "_leads": (),
            "_contacts": (),
            "_customers": (),
        }
        records.append(record)
    return records


def _leads(account: Account, count: int, dice: Random, epoch: int) -> list[Record]:
    users = [user["id"] for user in account.users]
    tags = [tag["id"] for tag in account.tags["leads"]]
    reasons = [reason["id"] for reason in account.loss_reasons] or [None]
    stages = [
        (pipeline["id"], stage["id"])
        for pipeline in account.pipelines
        for stage in pipeline["_statuses"]
        if stage["type"] == 0
    ]
    collection, pool = account.entities["leads"], _pool(account, "leads", count, dice)
    records: list[Record] = []
    for number in range(count):
        made, changed = _moments(dice, epoch)
        pipeline_id, status_id = dice.choice(stages)
        records.append(
            {
                "id": collection.next_id(),
                "name": names.deal(dice, number + 1),
                "price": dice.randrange(0, 100_000),
                "responsible_user_id": dice.choice(users),
                "group_id": 0,
                "status_id": status_id,
                "pipeline_id": pipeline_id,
                "loss_reason_id": dice.choice(reasons) if status_id == LOST else None,
                "created_by": dice.choice(users),
                "updated_by": dice.choice([0, *users]),
                "created_at": made,
                "updated_at": changed,
                "closed_at": changed if status_id in {WON, LOST} else None,
                "closest_task_at": None,
                "is_deleted": False,
                "custom_fields_values": pool[number % len(pool)],
                "score": None,
                "labor_cost": None,
                "is_price_computed": False,
                "_tags": [dice.choice(tags)] if dice.random() < 0.3 else [],
                "_company": None,
                "_contacts": (),
            }
        )
    return records


def _join(account: Account, dice: Random) -> None:
    """Tie leads to contacts and companies, contacts to companies; both sides know it."""
    contacts, companies = list(account.entities["contacts"]), list(account.entities["companies"])
    for contact in contacts:
        if companies and dice.random() < 0.5:
            company = dice.choice(companies)
            contact["_company"] = company["id"]
            company["_contacts"] = (*company["_contacts"], contact["id"])
    for lead in account.entities["leads"]:
        if contacts and dice.random() < 0.8:
            contact = dice.choice(contacts)
            lead["_contacts"] = (contact["id"],)
            contact["_leads"] = (*contact["_leads"][-20:], lead["id"])
        if companies and dice.random() < 0.4:
            company = dice.choice(companies)
            lead["_company"] = company["id"]
            company["_leads"] = (*company["_leads"][-20:], lead["id"])


def _around_leads(account: Account, dice: Random, epoch: int) -> None:
    leads = list(account.entities["leads"])[:_SAMPLES]
    for index, lead in enumerate(leads):
        made = lead["created_at"]
        common = {"created_by": lead["created_by"], "updated_by": lead["created_by"]}
        common |= {"created_at": made, "updated_at": made}
        common |= {"responsible_user_id": lead["responsible_user_id"], "group_id": 0}
        account.tasks.add(
            {
                "id": account.tasks.next_id(), **common, "entity_id": lead["id"], "entity_type": "leads",
                "duration": 0, "is_completed": index % 3 == 0, "task_type_id": 1 + index % 2,
                "text": f"Call back: {lead['name']}", "result": {"text": "Done 👍"} if index % 6 == 0 else [],
                "complete_till": epoch + 86_400 * (1 + index % 9),
            }
        )  # fmt: skip
        note_id = account.notes.next_id()
        account.notes.add(
            {
                "id": note_id, "entity_id": lead["id"], **common,
                "note_type": "common", "params": {"text": "Called, no answer\nЗвонил ✍️"},
                "_entity": "leads",
            }
        )  # fmt: skip
        note: list[Record] = [{"note": {"id": note_id}}]
        account.events.append(
            event(
                dice, "lead_added", "leads", lead["id"], user_id=lead["created_by"], moment=made, after=note
            )
        )
    account.events.sort(key=lambda known: (known["created_at"], known["id"]))


def event(
    dice: Random,
    kind: str,
    entity: str,
    record_id: int,
    *,
    user_id: int,
    moment: int,
    after: list[Record] | None = None,
    before: list[Record] | None = None,
) -> Record:
    """One row of the event list; not yet put into it [D]."""
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    return {
        "id": "01" + "".join(dice.choice(alphabet) for _ in range(24)),
        "type": kind,
        "entity_id": record_id,
        "entity_type": SINGULAR[entity],
        "created_by": user_id,
        "created_at": moment,
        "value_after": after or [],
        "value_before": before or [],
    }


def _talks(account: Account, count: int, origins: tuple[str, ...], dice: Random, epoch: int) -> None:
    leads = [lead for lead in account.entities["leads"] if lead["_contacts"]]
    if not leads:
        return
    for index in range(count):
        lead = dice.choice(leads)
        made, changed = _moments(dice, epoch)
        talk_id = account.talks.next_id()
        attached = index % 5 != 4
        in_work = index % 4 != 3
        account.talks.add(
            {
                "id": talk_id, "talk_id": talk_id, "created_at": made, "updated_at": changed, "rate": 0,
                "contact_id": lead["_contacts"][0], "chat_id": _uuid(dice),
                "entity_id": lead["id"] if attached else None, "entity_type": "lead" if attached else None,
                "is_in_work": in_work, "is_read": dice.random() < 0.5, "origin": origins[index % len(origins)],
                "missed_at": None, "status": "in_work" if in_work else "closed",
            }
        )  # fmt: skip
        account.messages[talk_id] = [
            {
                "id": _uuid(dice), "type": "incoming", "message_type": "text", "origin": origins[index % len(origins)],
                "text": "Hello 👋 / Здравствуйте", "delivery_status": None, "created_at": made,
                "author": {"id": _uuid(dice), "type": "external", "name": "Ann", "avatar_url": ""},
            }
        ]  # fmt: skip


def _unsorted(account: Account, dice: Random, epoch: int) -> None:
    """Two incoming leads: their lead has its id already [D A/unsorted]; the contact is not in lists yet."""
    pipeline = account.main_pipeline()
    for category in ("forms", "sip"):
        uid = f"{dice.getrandbits(240):060x}"
        lead, contact = account.entities["leads"].next_id(), account.entities["contacts"].next_id()
        account.unsorted[uid] = {
            "uid": uid, "source_uid": f"{dice.getrandbits(128):032x}", "source_name": "Landing page",
            "category": category, "pipeline_id": pipeline["id"], "created_at": epoch - dice.randrange(1, 9_999),
            "metadata": {"form_id": "123", "form_name": "Landing page", "form_page": "https://example.com",
                         "ip": "192.0.2.1", "form_sent_at": epoch - 10_000, "referer": ""},
            "_leads": [lead], "_contacts": [contact],
        }  # fmt: skip


def _catalog(account: Account, epoch: int) -> None:
    catalog_id = account.catalogs.next_id()
    account.catalogs.add(
        {
            "id": catalog_id, "name": "Products", "created_by": account.admin_id, "updated_by": account.admin_id,
            "created_at": epoch - 9_000_000, "updated_at": epoch - 9_000_000, "sort": 10, "type": "products",
            "can_add_elements": True, "can_show_in_cards": False, "can_link_multiple": True, "can_be_deleted": False,
        }
    )  # fmt: skip
    elements = account.elements[catalog_id] = Collection(12_235)
    for name in ("Chair", "Стол", "ランプ"):
        elements.add(
            {
                "id": elements.next_id(), "name": name, "created_by": account.admin_id,
                "updated_by": account.admin_id, "created_at": epoch - 8_000_000, "updated_at": epoch - 8_000_000,
                "is_deleted": None, "custom_fields_values": None, "catalog_id": catalog_id,
            }
        )  # fmt: skip
