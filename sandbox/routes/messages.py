"""Talks and sending into them (fact sheet 3.15 and 4), and starting a bot."""

import uuid

from sandbox import errors, render
from sandbox.call import Call, Route
from sandbox.paging import envelope, page_of
from sandbox.query import FilterKind, filtered, texts
from sandbox.state import Record
from sandbox.validate import Findings, one_of
from sandbox.wire import Response, dumps, hal, no_content

_FILTERS: dict[str, tuple[str, FilterKind]] = {
    "contact_id": ("contact_id", "ids"),
    "entity_id": ("entity_id", "ids"),
    "entity_type": ("entity_type", "word"),
    "origin": ("origin", "word"),
}


def talks(call: Call) -> Response:
    """GET /talks (Kommo, since 2026-07-01): newest first, 204 when empty [D K/talks]."""
    wanted = call.query.get("filter")
    held = filtered(list(call.account.talks), wanted, _FILTERS)
    if isinstance(wanted, dict) and texts(wanted.get("only_in_work")) == ["1"]:
        held = [record for record in held if record["is_in_work"]]
    held.sort(key=lambda record: (record["created_at"], record["talk_id"]), reverse=True)
    return page_of(call, "talks", held, lambda record: dumps(render.talk(call.account, record, listed=True)))


def _talk(call: Call) -> Record:
    record = call.account.talks.get(call.number("id"))
    if record is None:
        raise errors.entity_not_found()
    return record


def talk(call: Call) -> Response:
    """GET /talks/{id}: 404 for an unknown one [D]."""
    return hal(render.talk(call.account, _talk(call), listed=call.account.flavour == "kommo"))


def close(call: Call) -> Response:
    """POST /talks/{id}/close: 202 [D]."""
    record = _talk(call)
    body = call.optional()
    forced = bool(body.get("force_close"))
    changed = call.account.talks.change(
        record["id"],
        is_in_work=False,
        status="closed" if forced else "nps_scheduled",
        updated_at=call.now,
    )
    call.world.announce(call.account, "talks", "update", before=record, after=changed, user_id=call.user_id)
    return Response(202)


def messages(call: Call) -> Response:
    """GET /talks/{id}/messages: scope list_external_messages [D]."""
    if "list_external_messages" not in call.scopes:
        raise errors.Problem(errors.forbidden("Invalid scope"))
    held = call.account.messages.get(_talk(call)["id"], [])
    held = filtered(held, call.query.get("filter"), {"created_at": ("created_at", "range")})
    return page_of(call, "messages", held, dumps, default=250)


def send(call: Call) -> Response:
    """POST /talks/{id}/send_message: 202 means accepted, not delivered [D K/send-message-to-conversation]."""
    account = call.account
    if account.flavour == "amo":  # not in amoCRM's documentation
        return errors.not_found("POST", account.url + call.request.path)
    if not account.chats_tariff:
        return errors.payment_required("Endpoint not available for current account tariff")
    if "send_external_messages" not in call.scopes:
        return errors.forbidden("Invalid scope")
    record, body, found = _talk(call), call.one(), Findings()
    if found.required(body, "text", str) and not body["text"].strip():
        found.add(errors.missing("text"))
    found.settle()
    if not record["is_in_work"]:
        raise errors.unprocessable("Talk is closed")
    if account.chats_quota <= 0:
        return errors.payment_required("Over chat API limit")
    account.chats_quota -= 1
    message: Record = {
        "id": str(uuid.uuid4()),
        "type": "outgoing",
        "message_type": "text",
        "origin": record["origin"],
        "text": body["text"],
        "author": {"id": str(uuid.uuid4()), "type": "bot", "name": "API", "avatar_url": ""},
        "delivery_status": None,
        "created_at": call.now,
    }
    account.messages.setdefault(record["id"], []).append(message)
    account.talks.change(record["id"], updated_at=call.now)
    shown = message | {"_talk": record["talk_id"]}
    call.world.announce(account, "messages", "add", before=None, after=shown, user_id=call.user_id)
    if record["entity_id"]:
        call.world.note_event(
            account,
            "outgoing_chat_message",
            "leads",
            record["entity_id"],
            call.user_id,
            after=[
                {"message": {"id": message["id"], "talk_id": record["talk_id"], "origin": record["origin"]}}
            ],
        )
    return hal({"id": message["id"]}, 202)


def run_bot(call: Call) -> Response:
    """POST /bots/{id}/run: 202; an unknown bot or entity 404 [D K/launch-a-salesbot]."""
    body, found = call.one(), Findings()
    found.required(body, "entity_id", int)
    found.required(body, "entity_type", str)
    if body.get("entity_type") is not None and not one_of(body["entity_type"], {"leads", "contacts"}):
        found.unsupported("entity_type")
    found.settle()
    _check_bot(call, call.number("id"), body)
    return Response(202)


def run_bots(call: Call) -> Response:
    """POST /bots/run (array of bot_id, entity_id, entity_type): 202."""
    for element in call.many():
        _check_bot(call, element.get("bot_id"), element)
    return Response(202)


def _check_bot(call: Call, bot_id: object, element: Record) -> None:
    entities = call.account.entities.get(str(element.get("entity_type")))
    known = entities is not None and one_of(element.get("entity_id"), entities)
    if not known or not one_of(bot_id, call.account.bots):
        raise errors.entity_not_found()


def chats(call: Call) -> Response:
    """GET /contacts/chats: which chat belongs to which contact [D]."""
    held = filtered(
        list(call.account.chat_links),
        {key: value for key, value in call.request.query if key in {"contact_id", "chat_id"}},
        {"contact_id": ("contact_id", "ids"), "chat_id": ("chat_id", "word")},
    )
    return (
        envelope({"_total_items": len(held)}, "chats", [dumps(link) for link in held])
        if held
        else no_content()
    )


def link_chats(call: Call) -> Response:
    """POST /contacts/chats (array of contact_id and chat_id) [D A/contacts-api]."""
    elements, found = call.many(), Findings()
    for element in found.each(elements):
        found.required(element, "chat_id", str)
        if (
            found.required(element, "contact_id", int)
            and element["contact_id"] not in call.account.entities["contacts"]
        ):
            found.unsupported("contact_id")
    found.settle()
    made = []
    for index, element in enumerate(elements):
        link = {"chat_id": element["chat_id"], "contact_id": element["contact_id"]}
        link["id"] = call.account.chat_links.next_id()
        call.account.chat_links.add(link)
        made.append(dumps(link | {"request_id": str(element.get("request_id", index))}))
    return envelope({"_total_items": len(made)}, "chats", made)


ROUTES = [
    Route("GET", "talks", talks),
    Route("GET", "talks/{id}", talk),
    Route("POST", "talks/{id}/close", close),
    Route("GET", "talks/{id}/messages", messages),
    Route("POST", "talks/{id}/send_message", send),
    Route("POST", "bots/{id}/run", run_bot),
    Route("POST", "bots/run", run_bots),
    Route("GET", "contacts/chats", chats),
    Route("POST", "contacts/chats", link_chats),
]
