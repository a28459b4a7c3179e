"""The names of what the product and automations are told about a CRM, in one table (docs/events.md explains each).

A name is `kommo.NOUN.VERB`, of an entity and an action as Kommo's webhooks say them (kommo-api.md §6.3). What is not in
the table is told as `kommo.event.unknown`: nothing that Kommo sends is swallowed because it is new.
"""

from collections.abc import Mapping
from typing import Any

UNKNOWN = "kommo.event.unknown"
TEST = "kommo.test"
"""What `kommo events test` sends; it is never in the outbox."""

CONNECTIONS = (
    "integration_connected",
    "integration_error",
    "integration_disconnected",
    "kommo.connection.refreshed",
    "kommo.connection.reauthorization_required",
    "kommo.connection.moved",
)
SYNCS = ("kommo.sync.completed", "kommo.sync.failed", "kommo.drift.detected")
ACTIONS = ("kommo.action.confirmed", "kommo.action.failed", "kommo.action.unknown")

NOUNS: Mapping[str, str] = {
    "leads": "lead",
    "contacts": "contact",
    "companies": "company",
    "tasks": "task",
    "messages": "message",
    "talks": "talk",
    "notes": "note",
    "unsorted": "unsorted",
    "catalogs": "catalog_element",
    "customers": "customer",
}
"""The entities that we know, by the words of our inbox, and what one of each is called."""

READ = frozenset({"leads", "contacts", "companies", "tasks"})
"""The entities that are read from the API before anything is told: their webhooks may be old, reordered or forged."""

CHANGES = {
    "add": "created",
    "update": "updated",
    "delete": "deleted",
    "restore": "restored",
    "responsible": "responsible_changed",
    "status": "status_changed",
}
"""The actions that change what is read: the record itself says the rest."""
# What stage automations send besides [D §6.5]: something happened to the lead, its card did not change.
_PIPELINE = {word: word for word in ("mail_in", "call_in", "chat", "site_visit")}
_VERBS: Mapping[str, Mapping[str, str]] = {
    "leads": CHANGES | _PIPELINE,
    "contacts": CHANGES,
    "companies": CHANGES,
    "tasks": CHANGES,
    "customers": CHANGES,
    "talks": {"add": "created", "update": "updated"},
    "notes": {"add": "added", "note": "added"},
    "catalogs": {"add": "created", "update": "updated", "delete": "deleted"},
    "unsorted": {
        "add": "added",
        "update": "updated",
        "delete": "deleted",
        "accept": "accepted",
        "decline": "declined",
    },
}


def every_type() -> frozenset[str]:
    """Every type that the product may be told, but that of the test."""
    webhooks = {type_of(NOUNS[entity], verb) for entity, verbs in _VERBS.items() for verb in verbs.values()}
    # What the API says of what is read from it, whether or not a webhook told it.
    read = {type_of(NOUNS[entity], verb) for entity in READ for verb in ("missing", "responsible_changed")}
    alone = {UNKNOWN, "kommo.message.received", "kommo.message.sent", "kommo.task.completed"}
    return frozenset(webhooks | read | alone | {*CONNECTIONS, *SYNCS, *ACTIONS})


def type_of(noun: str, verb: str) -> str:
    """The name of one happening."""
    return f"kommo.{noun}.{verb}"


def told_type(entity: str, action: str, payload: Mapping[str, Any]) -> str:
    """What an event of the inbox is told as.

    Args:
        entity: Our word for the entity.
        action: Kommo's word for what happened.
        payload: The item of the webhook: for messages and incoming leads the action alone does not say it.
    """
    noun = NOUNS.get(entity)
    if noun is None:
        return UNKNOWN
    if entity == "messages":
        if action != "add":
            return UNKNOWN
        return type_of(noun, "sent" if payload.get("type") == "outgoing" else "received")
    if entity == "unsorted" and action == "delete":
        # Accepting or declining an incoming lead arrives as its deletion [D §6.3].
        action = str(payload.get("action") or action)
    verb = _VERBS[entity].get(action)
    return UNKNOWN if verb is None else type_of(noun, verb)
