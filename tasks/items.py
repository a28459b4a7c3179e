"""From Kommo's values to the store's rows: the one place that knows both.

A row keeps the raw object beside the typed columns (S2), but without the children that have rows of their own: so a
renamed stage is one new version of the stage, and none of its pipeline.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kommo.models import (
    Account,
    Channel,
    CustomField,
    KommoModel,
    LossReason,
    Model,
    Pipeline,
    Source,
    TaskType,
    User,
    parse_many,
)
from store.kinds import KINDS
from store.snapshots import Item

Raw = dict[str, Any]
Rows = dict[str, list[Item]]

# What a person calls the origins that talks name [C R#57982192942, captures].
_ORIGIN_NAMES: Mapping[str, str] = {
    "waba": "WhatsApp Business",
    "whatsapp": "WhatsApp",
    "instagram_business": "Instagram",
    "facebook": "Facebook Messenger",
    "telegram": "Telegram",
    "onlinechat": "Online chat",
}


def account_rows(raw: Raw) -> Rows:
    """The account, and the task types that come inside it."""
    [account] = parse_many(Account, [raw], "account")
    return {
        "account": [
            _item("account", account, _without(raw, "_embedded", "task_types"), timezone=account.timezone)
        ],
        "task_types": [
            _item("task_types", task_type, child)
            for task_type, child in _pairs(TaskType, _inside(raw, "_embedded", "task_types"), "task_types")
        ],
    }


def pipeline_rows(raws: Sequence[Raw]) -> Rows:
    """Pipelines, and their statuses as rows of their own."""
    rows: Rows = {"pipelines": [], "statuses": []}
    for pipeline, raw in _pairs(Pipeline, raws, "pipelines"):
        rows["pipelines"].append(_item("pipelines", pipeline, _without(raw, "_embedded", "statuses")))
        children = _inside(raw, "_embedded", "statuses") or _inside(raw, "statuses")
        rows["statuses"] += [
            _item("statuses", status, child)
            for status, child in zip(pipeline.statuses, children, strict=True)
        ]
    return rows


def field_rows(entity: str, raws: Sequence[Raw]) -> Rows:
    """Custom fields of one entity (lead, contact, company), and their enums as rows of their own."""
    fields, enums = f"{entity}_fields", f"{entity}_field_enums"
    rows: Rows = {fields: [], enums: []}
    for field, raw in _pairs(CustomField, raws, fields):
        # The path of the listing says which entity it is; Kommo's own `entity_type` is missing in older answers.
        columns = dict(KINDS[fields].constants)
        rows[fields].append(_item(fields, field, _without(raw, "enums"), **columns))
        rows[enums] += [
            _item(enums, enum, child, field_id=field.id, **columns)
            for enum, child in zip(field.enums, _inside(raw, "enums"), strict=True)
        ]
    return rows


def user_rows(raws: Sequence[Raw]) -> Rows:
    """Users."""
    return {"users": [_item("users", user, raw) for user, raw in _pairs(User, raws, "users")]}


def loss_reason_rows(raws: Sequence[Raw]) -> Rows:
    """Reasons for losing a lead."""
    pairs = _pairs(LossReason, raws, "loss_reasons")
    return {"loss_reasons": [_item("loss_reasons", reason, raw) for reason, raw in pairs]}


def channel_rows(
    account_id: int | None, *, sources: Sequence[Raw], listed: Sequence[Raw], origins: Iterable[str]
) -> Rows:
    """Channels, put together from what Kommo has instead of a list of them.

    Args:
        account_id: Kommo's account id.
        sources: the integration's own sources.
        listed: what `/api/v4/channels` gave, where an installation has it.
        origins: the origins of talks; one that a source accounts for is not a channel of its own.
    """
    items: list[Item] = []
    taken: set[str] = set()
    for source, raw in _pairs(Source, sources, "sources"):
        service = next((str(s["type"]) for s in source.services if s.get("type")), None)
        items.append(
            _channel(
                f"source:{source.id}",
                raw,
                channel_id=str(source.id),
                name=source.name,
                type=service or source.origin_code or "source",
                origin=source.origin_code,
                source_id=source.id,
                external_id=source.external_id,
                pipeline_id=source.pipeline_id,
                account_id=account_id,
                found_in="sources",
            )
        )
        taken.update(code for code in (source.origin_code, service) if code)
    for channel, raw in _pairs(Channel, listed, "channels"):
        columns = {"channel_id": channel.id, "name": channel.name, "type": channel.type}
        account = channel.account_id or account_id
        items.append(
            _channel(f"channel:{channel.id}", raw, **columns, account_id=account, found_in="channels")
        )
        if channel.type:
            taken.add(channel.type)
    items += [origin_channel(origin, account_id) for origin in sorted(set(origins) - taken)]
    return {"channels": items}


def origin_channel(origin: str, account_id: int | None) -> Item:
    """The channel that the origin of a talk stands for."""
    return _channel(
        f"origin:{origin}",
        {"origin": origin},
        channel_id=origin,
        name=_ORIGIN_NAMES.get(origin, origin),
        type=origin,
        origin=origin,
        account_id=account_id,
        found_in="talks",
    )


def _channel(key: str, raw: Raw, **columns: Any) -> Item:
    return Item(key=key, columns=columns, raw=raw)


def _item(kind_name: str, value: KommoModel, raw: Raw, **more: Any) -> Item:
    """A row of a kind: each of its columns from the value's attribute of the name that answers use."""
    kind = KINDS[kind_name]
    columns = {column: getattr(value, name, None) for column, name in kind.columns.items()}
    columns |= more
    return Item(key=kind.key(columns), columns=columns, raw=raw)


def _pairs(model: type[Model], raws: Sequence[Raw], resource: str) -> Iterable[tuple[Model, Raw]]:
    return zip(parse_many(model, raws, resource), raws, strict=True)


def _inside(raw: Raw, *path: str) -> list[Raw]:
    """The list at `path`; PHP may have made an object of it, or nothing [D §3.4]."""
    value: Any = raw
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value = list(value.values())
    return value if isinstance(value, list) else []


def _without(raw: Raw, *path: str) -> Raw:
    """A copy of a raw object without what is at `path`; an `_embedded` that this leaves empty goes too."""
    head, *rest = path
    if head not in raw:
        return raw
    if rest and isinstance(raw[head], dict):
        inner = _without(raw[head], *rest)
        if inner:
            return {**raw, head: inner}
    return {key: value for key, value in raw.items() if key != head}
