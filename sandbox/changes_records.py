"""Changes of an account's records as people and customers would make them: written, deleted, restored, noted, messaged.

They go the same way as writes through the API, so they leave the same events and send the same webhooks; only token,
limits and faults are passed by. Who does it is by default a user who is no administrator: the integration's own user is
the administrator, and its writes are to be told from those of others.
"""

import json
import uuid
from typing import Any

from sandbox.call import Call
from sandbox.errors import Problem
from sandbox.router import resolve
from sandbox.state import FIRST_USER_ID, SINGULAR, Account, Record
from sandbox.wire import Request, dumps, epoch_now
from sandbox.world import World

Result = dict[str, Any]
_ROBOT: Record = {"id": 0, "name": "", "rights": {"is_admin": True}}


def someone(account: Account, user_id: int | None = None) -> Record:
    """The user who makes a change: the one named, 0 for the system, or the first one who is not the administrator."""
    if user_id == 0:
        return _ROBOT
    wanted = account.users.get(FIRST_USER_ID + 2 if user_id is None else user_id)
    if wanted is None and user_id is not None:
        raise LookupError(f"no user {user_id}")
    return wanted or next(iter(account.users))


def call_of(
    world: World, account: Account, user: Record, *, method: str, path: str, body: object = None
) -> Call:
    """A call of the API without any network.

    Args:
        world: The state.
        account: Where.
        user: Who.
        method: HTTP method.
        path: Below /api/v4/.
        body: JSON value, or None for none.
    """
    raw = b"" if body is None else dumps(body)
    request = Request(method, f"/api/v4/{path}", "", {}, raw, "127.0.0.1", epoch_now())
    return Call(world, account, user, world.integration.scopes, request)


def write(
    world: World,
    account: Account,
    *,
    method: str,
    path: str,
    body: object = None,
    user_id: int | None = None,
) -> Result:
    """Any write of the API as if a user had done the same in the UI.

    Raises:
        LookupError: There is no such path or user.
        ValueError: The API would refuse it.
    """
    call = call_of(world, account, someone(account, user_id), method=method, path=path, body=body)
    route, call.params, _ = resolve(method, call.request.path)
    if route is None:
        raise LookupError(f"no {method} {path}")
    try:
        answer = route.handler(call)
    except Problem as problem:
        raise ValueError(problem.response.body.decode()) from None
    if answer.status >= 300:
        raise ValueError(answer.body.decode())
    shown: object = json.loads(answer.body) if answer.body else {}
    return shown if isinstance(shown, dict) else {"answer": shown}


def add_record(
    world: World, account: Account, *, entity: str, values: Record | None = None, user_id: int | None = None
) -> Result:
    """Add a lead, contact, company, customer or task."""
    made = write(world, account, method="POST", path=entity, body=[values or {"name": ""}], user_id=user_id)
    return {"id": made["_embedded"][entity][0]["id"]}


def update_record(
    world: World,
    account: Account,
    *,
    entity: str,
    id: int,  # noqa: A002 - the API's own word
    values: Record,
    user_id: int | None = None,
) -> Result:
    """Change a lead, contact, company, customer or task."""
    write(world, account, method="PATCH", path=f"{entity}/{id}", body=values, user_id=user_id)
    return {"id": id}


def delete_record(
    world: World,
    account: Account,
    *,
    entity: str,
    id: int,  # noqa: A002 - the API's own word
    user_id: int | None = None,
) -> Result:
    """Put a lead, contact, company or customer into the bin; a task is gone for good."""
    user = int(someone(account, user_id)["id"])
    if entity != "tasks":
        return _bin(world, account, entity, id, user, deleted=True)
    held = account.tasks.remove(id)
    if held is None:
        raise LookupError(f"no task {id}")
    world.note_event(account, "task_deleted", "tasks", id, user)
    world.announce(account, "tasks", "delete", before=held, after=None, user_id=user)
    return {"id": id}


def restore_record(
    world: World,
    account: Account,
    *,
    entity: str,
    id: int,  # noqa: A002 - the API's own word
    user_id: int | None = None,
) -> Result:
    """Take a lead, contact, company or customer out of the bin; Kommo has none for tasks."""
    if entity == "tasks":
        raise LookupError("a deleted task cannot be restored")
    return _bin(world, account, entity, id, int(someone(account, user_id)["id"]), deleted=False)


def _bin(
    world: World, account: Account, entity: str, record_id: int, user_id: int, *, deleted: bool
) -> Result:
    held = account.entities[entity].get(record_id)
    if held is None:
        raise LookupError(f"no {SINGULAR[entity]} {record_id}")
    values = {"is_deleted": deleted, "updated_at": world.now(), "updated_by": user_id}
    changed = account.entities[entity].change(record_id, **values)
    action = "delete" if deleted else "restore"
    world.note_event(account, f"{SINGULAR[entity]}_{action}d", entity, record_id, user_id)
    world.announce(account, entity, action, before=held, after=None if deleted else changed, user_id=user_id)
    return {"id": record_id}


def add_note(
    world: World,
    account: Account,
    *,
    entity: str,
    id: int,  # noqa: A002 - the API's own word
    text: str = "",
    note_type: str = "common",
    params: Record | None = None,
    user_id: int | None = None,
) -> Result:
    """Add a note to a record."""
    element = {"note_type": note_type, "params": params or {"text": text}}
    made = write(world, account, method="POST", path=f"{entity}/{id}/notes", body=[element], user_id=user_id)
    return {"id": made["_embedded"]["notes"][0]["id"]}


def incoming_message(
    world: World,
    account: Account,
    *,
    text: str,
    talk_id: int | None = None,
    contact_id: int | None = None,
    lead_id: int | None = None,
    origin: str = "waba",
    attachment: Record | None = None,
    picture: str = "",
) -> Result:
    """A customer writes: into a talk, or into a new one of a contact with or without a lead."""
    talks, now = account.talks, world.now()
    if talk_id is None:
        talk_id = talks.next_id()
        held = talks.add(
            {
                "talk_id": talk_id, "id": talk_id, "created_at": now, "updated_at": now, "rate": 0,
                "contact_id": contact_id or next(iter(account.entities["contacts"]))["id"],
                "chat_id": str(uuid.uuid4()), "entity_id": lead_id, "entity_type": "lead" if lead_id else None,
                "is_in_work": True, "is_read": False, "origin": origin, "missed_at": None, "status": "in_work",
            }
        )  # fmt: skip
        world.announce(account, "talks", "add", before=None, after=held, user_id=0)
    elif (known := talks.get(talk_id)) is None:
        raise LookupError(f"no talk {talk_id}")
    else:
        held = talks.change(talk_id, updated_at=now, is_read=False, is_in_work=True, status="in_work")
        world.announce(account, "talks", "update", before=known, after=held, user_id=0)
    author = {"id": str(uuid.uuid4()), "type": "external", "name": "Ann", "avatar_url": picture}
    message: Record = {
        "id": str(uuid.uuid4()), "type": "incoming", "message_type": "picture" if attachment else "text",
        "origin": held["origin"], "text": text, "author": author, "delivery_status": None, "created_at": now,
    }  # fmt: skip
    account.messages.setdefault(talk_id, []).append(message)
    shown = message | {"_talk": talk_id} | ({"attachment": attachment} if attachment else {})
    world.announce(account, "messages", "add", before=None, after=shown, user_id=0)
    about: list[Record] = [{"message": {"id": message["id"], "talk_id": talk_id, "origin": held["origin"]}}]
    entity, record_id = (
        ("leads", held["entity_id"]) if held["entity_id"] else ("contacts", held["contact_id"])
    )
    world.note_event(account, "incoming_chat_message", entity, record_id, 0, after=about)
    return {"talk_id": talk_id, "message_id": message["id"]}


def add_element(
    world: World,
    account: Account,
    *,
    catalog_id: int,
    name: str,
    fields: list[Record] | None = None,
    user_id: int | None = None,
) -> Result:
    """Add an element to a list."""
    held, user, now = account.elements[catalog_id], int(someone(account, user_id)["id"]), world.now()
    record = held.add(
        {
            "id": held.next_id(), "name": name, "created_by": user, "updated_by": user, "created_at": now,
            "updated_at": now, "is_deleted": None, "custom_fields_values": fields, "catalog_id": catalog_id,
        }
    )  # fmt: skip
    world.announce(account, "elements", "add", before=None, after=record, user_id=user)
    return {"id": record["id"]}


def update_element(
    world: World,
    account: Account,
    *,
    catalog_id: int,
    id: int,  # noqa: A002 - the API's own word
    name: str,
    user_id: int | None = None,
) -> Result:
    """Rename an element of a list."""
    held, user = account.elements[catalog_id], int(someone(account, user_id)["id"])
    before = held.get(id)
    after = held.change(id, name=name, updated_at=world.now(), updated_by=user)
    world.announce(account, "elements", "update", before=before, after=after, user_id=user)
    return {"id": id}


def delete_element(
    world: World,
    account: Account,
    *,
    catalog_id: int,
    id: int,  # noqa: A002 - the API's own word
    user_id: int | None = None,
) -> Result:
    """Delete an element of a list."""
    before = account.elements[catalog_id].remove(id)
    if before is None:
        raise LookupError(f"no element {id}")
    user = int(someone(account, user_id)["id"])
    world.announce(account, "elements", "delete", before=before, after=None, user_id=user)
    return {"id": id}


RECORD_CHANGES = (
    write, add_record, update_record, delete_record, restore_record, add_note, incoming_message, add_element,
    update_element, delete_element,
)  # fmt: skip
