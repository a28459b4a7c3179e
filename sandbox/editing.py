"""What a write does to a lead, contact or company: checks, values, tags, links, events, announcements.

Facts: fact sheet 3.4 (values), 3.5 (leads), 3.6 (contacts and companies). Nothing is changed before the whole request
has been checked, so a batch is all or nothing [I].
"""

from collections.abc import Iterable

from sandbox import errors
from sandbox.call import Call
from sandbox.seed_records import field_entry
from sandbox.state import LOST, SINGULAR, WON, Account, Record
from sandbox.validate import Findings, find_enum, find_field, moment, one_of

_PLAIN = (
    "name",
    "price",
    "responsible_user_id",
    "created_by",
    "updated_by",
    "created_at",
    "updated_at",
    "score",
)
_TYPES: tuple[tuple[str, type], ...] = (
    ("name", str),
    ("first_name", str),
    ("last_name", str),
    ("price", int),
    ("created_at", int),
    ("updated_at", int),
)
_CHANGED: tuple[tuple[str, str], ...] = (
    ("name", "name_field_changed"),
    ("price", "sale_field_changed"),
    ("responsible_user_id", "entity_responsible_changed"),
)


def check(call: Call, found: Findings, entity: str, element: Record, held: Record | None) -> None:
    """Check one element of a create (held None) or change."""
    account = call.account
    for key, expected in _TYPES:
        found.typed(element, key, expected)
    for key in ("responsible_user_id", "created_by", "updated_by"):
        found.user(account, element, key)
    found.custom_fields(account, entity, element)
    if entity == "leads":
        _check_stage(call, found, element, held)
    for key in ("tags_to_add", "tags_to_delete"):
        found.objects(element, key)
    found.embedded(element, "tags", "contacts", "companies", "leads")
    embedded = element.get("_embedded")
    for other in ("contacts", "companies", "leads"):
        linked = embedded.get(other) if isinstance(embedded, dict) else None
        for place, link in enumerate(linked if isinstance(linked, list) else ()):
            if isinstance(link, dict) and link.get("id") and not one_of(link["id"], account.entities[other]):
                found.unsupported(f"_embedded.{other}.{place}.id")


def _check_stage(call: Call, found: Findings, element: Record, held: Record | None) -> None:
    account = call.account
    has_pipeline = found.typed(element, "pipeline_id", int)
    if has_pipeline and element["pipeline_id"] not in account.pipelines:
        found.unsupported("pipeline_id")
        return
    if found.typed(element, "status_id", int):
        _, status = stage_of(account, element, held)
        if status is None or (held is None and status["type"] == 1):  # incoming stage: only by /unsorted [I]
            found.unsupported("status_id")
    if found.typed(element, "loss_reason_id", int) and element["loss_reason_id"] not in account.loss_reasons:
        found.unsupported("loss_reason_id")


def stage_of(account: Account, element: Record, held: Record | None) -> tuple[int, Record | None]:
    """Pipeline and stage that a write asks for; None for a stage that is not in that pipeline.

    A new lead without pipeline_id goes where its status_id is, else into the main pipeline; a change without
    pipeline_id stays in its pipeline, so a foreign status_id is refused [D].
    """
    status_id = element.get("status_id")
    pipeline_id = element.get("pipeline_id") or (held["pipeline_id"] if held else None)
    if pipeline_id is None:
        main = account.main_pipeline()["id"]
        order = [main, *(known["id"] for known in account.pipelines if known["id"] != main)]
        pipeline_id = next((known for known in order if status_id and account.status(known, status_id)), main)
    if status_id is None and held is not None and held["pipeline_id"] == pipeline_id:
        status_id = held["status_id"]
    if status_id is None:
        return pipeline_id, next(stage for stage in account.statuses(pipeline_id) if stage["type"] == 0)
    return pipeline_id, account.status(pipeline_id, status_id)


def insert(call: Call, entity: str, element: Record, record_id: int | None = None) -> Record:
    """Make a record; its checks have been passed.

    Args:
        call: Who writes.
        entity: Plural entity word.
        element: What was sent.
        record_id: An id handed out earlier (incoming leads).
    """
    account, now = call.account, call.now
    record: Record = {
        "id": record_id or account.entities[entity].next_id(),
        "name": element.get("name") or "",
    }
    if entity == "contacts":
        record |= _names(element)
    if entity == "leads":
        record["price"] = 0
    record |= {"responsible_user_id": call.user_id, "group_id": 0}
    if entity == "leads":
        record |= {"status_id": 0, "pipeline_id": 0, "loss_reason_id": None}
    record |= {"created_by": call.user_id, "updated_by": call.user_id, "created_at": now, "updated_at": now}
    record |= {"closed_at": None} if entity == "leads" else {}
    record |= {"closest_task_at": None, "is_deleted": False, "custom_fields_values": None}
    if entity == "leads":
        record |= {"score": None, "labor_cost": None, "is_price_computed": False}
        if not record["name"]:
            record["name"] = f"Lead #{record['id']}"
    if entity == "contacts":
        record["is_unsorted"] = False
    record |= {"_tags": [], "_company": None, "_contacts": (), "_leads": (), "_customers": ()}
    record |= _changes(call, entity, element, record)
    account.entities[entity].add(record)
    _link_embedded(call, entity, record["id"], element)
    call.world.note_event(account, f"{SINGULAR[entity]}_added", entity, record["id"], call.user_id)
    made = account.entities[entity].get(record["id"]) or record  # with its links
    call.world.announce(account, entity, "add", before=None, after=made, user_id=call.user_id)
    return made


def update(call: Call, entity: str, held: Record, element: Record) -> Record:
    """Change a record; its checks have been passed."""
    account = call.account
    values: Record = {"updated_at": call.now, "updated_by": call.user_id}
    values |= _changes(call, entity, element, held)
    if entity == "contacts" and {"first_name", "last_name"} & element.keys():
        values |= _names({"first_name": held["first_name"], "last_name": held["last_name"]} | element)
    changed = account.entities[entity].change(held["id"], **values)
    _link_embedded(call, entity, held["id"], element)
    changed = account.entities[entity].get(held["id"]) or changed
    _tell(call, entity, held, changed)
    return changed


def _names(element: Record) -> Record:
    first, last = str(element.get("first_name") or ""), str(element.get("last_name") or "")
    name = str(element.get("name") or f"{first} {last}".strip())
    if "first_name" in element or "last_name" in element:
        name = f"{first} {last}".strip() or name
    return {"name": name, "first_name": first or name, "last_name": last}


def _changes(call: Call, entity: str, element: Record, held: Record) -> Record:
    values = {key: element[key] for key in _PLAIN if key in held and element.get(key) is not None}
    if entity == "leads":
        values |= _stage_changes(call, element, held)
    if "custom_fields_values" in element:
        sent = element["custom_fields_values"] or []
        values["custom_fields_values"] = written_fields(
            call.account, entity, held["custom_fields_values"], sent
        )
    tags = _tags(call.account, entity, element, held["_tags"])
    return values | ({"_tags": tags} if tags != held["_tags"] else {})


def _stage_changes(call: Call, element: Record, held: Record) -> Record:
    fresh = not held["pipeline_id"]
    pipeline_id, status = stage_of(call.account, element, None if fresh else held)
    if status is None:
        raise errors.validation({"0": [errors.unsupported("status_id")]})
    values: Record = {"pipeline_id": pipeline_id, "status_id": status["id"]}
    moved = (pipeline_id, status["id"]) != (held["pipeline_id"], held["status_id"])
    if moved:
        values["closed_at"] = call.now if status["id"] in {WON, LOST} else None
    if status["id"] != LOST:
        values["loss_reason_id"] = None
    elif "loss_reason_id" in element:
        values["loss_reason_id"] = element["loss_reason_id"]
    return values


def written_fields(
    account: Account, entity: str, held: list[Record] | None, sent: list[Record]
) -> list[Record] | None:
    """`custom_fields_values` after a write: a field sent is replaced as a whole, [] or null clears it [D, C].

    Args:
        account: Whose definitions.
        entity: Plural entity word.
        held: The values before.
        sent: What the client sent, checked.
    """
    entries = {entry["field_id"]: entry for entry in held or ()}
    for element in sent:
        definition = find_field(account, entity, element)
        if definition is None:
            continue
        values = [_read_value(definition, value) for value in element.get("values") or ()]
        if values:
            entries[definition["id"]] = field_entry(definition, values)
        else:
            entries.pop(definition["id"], None)
    return list(entries.values()) or None


def _read_value(definition: Record, sent: Record) -> Record:
    """A written value as it is read back."""
    kind, value = definition["type"], sent.get("value")
    if kind == "chained_list":
        return {key: sent.get(key) for key in ("catalog_id", "catalog_element_id")}
    enum = find_enum(definition, sent)
    if kind in {"multitext", "smart_address"}:
        enum = enum or (definition["enums"] or [{"id": None, "value": None}])[0]
        return {"value": value, "enum_id": enum["id"], "enum_code": enum["value"]}
    if enum is not None and definition["enums"]:
        return {"value": enum["value"], "enum_id": enum["id"], "enum_code": enum.get("code")}
    if kind == "checkbox":
        value = value not in {False, "0", "", "false"}
    elif kind in {"numeric", "monetary", "price"}:
        value = str(value)
    elif kind in {"date", "date_time", "birthday"}:
        value = moment(value)
    return {"value": value}


def _tags(account: Account, entity: str, element: Record, held: list[int]) -> list[int]:
    """Tags after a write: `_embedded.tags` replaces, null clears, tags_to_add and tags_to_delete adjust [D]."""
    embedded = element.get("_embedded") or {}
    ids = list(held)
    if "tags" in embedded:
        ids = _tag_ids(account, entity, embedded["tags"] or ())
    ids += [tag for tag in _tag_ids(account, entity, element.get("tags_to_add") or ()) if tag not in ids]
    gone = set(_tag_ids(account, entity, element.get("tags_to_delete") or ()))
    return [tag for tag in ids if tag not in gone]


def _tag_ids(account: Account, entity: str, sent: Iterable[Record]) -> list[int]:
    ids = []
    for tag in sent:
        if one_of(tag.get("id"), account.tags[entity]):
            ids.append(int(tag["id"]))
        elif tag.get("name"):
            ids.append(int(account.tag_named(entity, str(tag["name"]))["id"]))
    return ids


def _link_embedded(call: Call, entity: str, record_id: int, element: Record) -> None:
    embedded = element.get("_embedded") or {}
    for other in ("contacts", "companies", "leads"):
        if other != entity:
            for link_ in embedded.get(other) or ():
                if link_.get("id"):
                    link(call.account, entity, record_id, other, link_["id"], main=bool(link_.get("is_main")))


def link(
    account: Account, entity: str, record_id: int, other: str, other_id: int, *, main: bool = False
) -> None:
    """Tie two records; both sides know it afterwards. A company is single for leads and contacts."""
    _point(account, entity, record_id, other, other_id, main=main)
    _point(account, other, other_id, entity, record_id, main=False)


def _point(account: Account, entity: str, record_id: int, other: str, other_id: int, *, main: bool) -> None:
    record = account.entities[entity].get(record_id)
    if record is None:
        return
    if other == "companies":
        account.entities[entity].change(record_id, _company=other_id)
        return
    known = tuple(old for old in record.get(f"_{other}", ()) if old != other_id)
    linked = (other_id, *known) if main else (*known, other_id)
    account.entities[entity].change(record_id, **{f"_{other}": linked})


def unlink(account: Account, entity: str, record_id: int, other: str, other_id: int) -> None:
    """Untie two records on both sides."""
    for here, here_id, there, there_id in (
        (entity, record_id, other, other_id),
        (other, other_id, entity, record_id),
    ):
        record = account.entities[here].get(here_id)
        if record is None:
            continue
        if there == "companies":
            account.entities[here].change(here_id, _company=None)
        else:
            kept = tuple(known for known in record.get(f"_{there}", ()) if known != there_id)
            account.entities[here].change(here_id, **{f"_{there}": kept})


def _tell(call: Call, entity: str, before: Record, after: Record) -> None:
    """Events and announcements of a change; one edit may fire update, status and responsible together [D]."""
    world, account, record_id = call.world, call.account, after["id"]

    def tell(action: str) -> None:
        world.announce(account, entity, action, before=before, after=after, user_id=call.user_id)

    def event(kind: str, now: list[Record], then: list[Record]) -> None:
        world.note_event(account, kind, entity, record_id, call.user_id, after=now, before=then)

    tell("update")
    if entity == "leads" and (before["pipeline_id"], before["status_id"]) != (
        after["pipeline_id"],
        after["status_id"],
    ):
        now, then = (
            [{"lead_status": {"id": record["status_id"], "pipeline_id": record["pipeline_id"]}}]
            for record in (after, before)
        )
        event("lead_status_changed", now, then)
        tell("status")
    for key, kind in _CHANGED:
        if before.get(key) != after.get(key):
            event(kind, [{key: {"value": after.get(key)}}], [{key: {"value": before.get(key)}}])
    if before["responsible_user_id"] != after["responsible_user_id"]:
        tell("responsible")
    old = {entry["field_id"]: entry["values"] for entry in before["custom_fields_values"] or ()}
    new = {entry["field_id"]: entry["values"] for entry in after["custom_fields_values"] or ()}
    for field_id in [known for known in {**old, **new} if old.get(known) != new.get(known)]:
        now, then = (
            [{"custom_field_value": {"field_id": field_id, **value}} for value in values.get(field_id) or ()]
            for values in (new, old)
        )
        event(f"custom_field_{field_id}_value_changed", now, then)
    for kind, tags in (
        ("entity_tag_added", [tag for tag in after["_tags"] if tag not in before["_tags"]]),
        ("entity_tag_deleted", [tag for tag in before["_tags"] if tag not in after["_tags"]]),
    ):
        if tags:
            event(kind, [{"tag": {"id": tag}} for tag in tags], [])
