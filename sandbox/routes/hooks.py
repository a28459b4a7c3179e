"""Webhook subscriptions (fact sheet 5): administrators only. How they are sent is in `sandbox.webhooks`."""

from urllib.parse import urlsplit

from sandbox import errors
from sandbox.call import Call, Route
from sandbox.paging import whole
from sandbox.query import texts
from sandbox.validate import Findings, one_of
from sandbox.wire import Response, hal, no_content

_ENTITIES = ("lead", "contact", "company", "customer")
EVENTS = frozenset(
    [
        f"{verb}_{entity}"
        for verb in ("add", "update", "delete", "responsible", "note")
        for entity in _ENTITIES
    ]
    + [f"restore_{entity}" for entity in ("lead", "contact", "company")]
    + [f"{verb}_task" for verb in ("add", "update", "delete", "responsible")]
    + [
        "status_lead",
        "add_talk",
        "update_talk",
        "add_message",
        "add_outgoing_message",
        "add_chat_template_review",
    ]
    + ["add_unsorted", "update_unsorted", "delete_unsorted"]
)
_MOST = 100


def listing(call: Call) -> Response:
    """GET /webhooks: total, no links; 204 when there are none [I]."""
    held = list(call.account.webhooks)
    wanted = call.query.get("filter")
    if isinstance(wanted, dict) and "destination" in wanted:
        names = texts(wanted["destination"])
        held = [record for record in held if record["destination"] in names]
    return whole(call, "webhooks", held, lambda record: record, links=False)


def subscribe(call: Call) -> Response:
    """POST /webhooks (one object): the same destination again replaces its settings [D A]; 201 or 200 by brand."""
    body, found = call.one(), Findings()
    if found.required(body, "destination", str):
        parts = urlsplit(body["destination"])
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            found.unsupported("destination")
    if found.required(body, "settings", list):
        for place, name in enumerate(body["settings"]):
            if not one_of(name, EVENTS):
                found.unsupported(f"settings.{place}")
    found.typed(body, "sort", int)
    found.settle()
    held = next(
        (known for known in call.account.webhooks if known["destination"] == body["destination"]), None
    )
    if held is not None:
        values = {"settings": body["settings"], "updated_at": call.now}
        if held["disabled"] and call.world.webhooks.settings.post_enables:
            values["disabled"] = False
            call.world.webhooks.forgive(call.account, held["id"])
        record = call.account.webhooks.change(held["id"], **values)
    elif len(call.account.webhooks) >= _MOST:
        raise errors.unprocessable("Limit 100 webhooks per account")
    else:
        record = call.account.webhooks.add(
            {
                "id": call.account.webhooks.next_id(),
                "destination": body["destination"],
                "created_at": call.now,
                "updated_at": call.now,
                "account_id": call.account.id,
                "created_by": call.user_id,
                "sort": body.get("sort", len(call.account.webhooks) + 1),
                "disabled": False,
                "settings": body["settings"],
            }
        )
    return hal(record, 201 if call.account.flavour == "amo" else 200)


def unsubscribe(call: Call) -> Response:
    """DELETE /webhooks with the exact destination in the body: 204, unknown 404 [D]."""
    body, found = call.one(), Findings()
    found.required(body, "destination", str)
    found.settle()
    held = next(
        (known for known in call.account.webhooks if known["destination"] == body["destination"]), None
    )
    if held is None:
        raise errors.entity_not_found()
    call.account.webhooks.remove(held["id"])
    return no_content()


ROUTES = [
    Route("GET", "webhooks", listing, admin=True),
    Route("POST", "webhooks", subscribe, admin=True),
    Route("DELETE", "webhooks", unsubscribe, admin=True),
]
