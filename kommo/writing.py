"""What the product's actions write, and how it is found again when the answer was lost (R3).

Facts: kommo-api.md §3.8 (tasks), §3.9 (notes), §3.5 (leads: a PATCH of many takes an array with ids), §3.15 and §4
(talks, sending into them), §2.6 (unknown filters are ignored without a word, so what comes is checked again).
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from kommo.catalogue import Resource
from kommo.client import KommoClient
from kommo.errors import ErrorKind, KommoError
from kommo.models import Talk, parse_many
from kommo.transport import Gate, Json

Item = dict[str, Any]

MOST_ELEMENTS = 50
"""Elements in one write [D §2.4: 250 at most, 50 recommended]."""
_MOST_PAGES = 8
"""Pages in which something is looked for; more means that Kommo has ignored the filter."""
_TALK_TYPE = {"leads": "lead"}  # talks name entities in the singular [D §3.15]


async def create_tasks(client: KommoClient, elements: Sequence[Item], gate: Gate | None = None) -> list[Item]:
    """Create tasks; gives what Kommo says of each: its id and the `request_id` that came with it [D §3.8].

    Raises:
        KommoError: ``outcome_unknown`` says that nobody knows whether they were created.
    """
    return await _many(client, "POST", "/api/v4/tasks", elements, gate)


async def create_notes(
    client: KommoClient, entity: str, elements: Sequence[Item], gate: Gate | None = None
) -> list[Item]:
    """Create notes on entities of one type, each element with its `entity_id` [D §3.9].

    Raises:
        KommoError: ``outcome_unknown`` says that nobody knows whether they were created.
    """
    return await _many(client, "POST", f"/api/v4/{entity}/notes", elements, gate)


async def change_leads(client: KommoClient, elements: Sequence[Item], gate: Gate | None = None) -> list[Item]:
    """Change leads, each element with its `id`; what is not in an element stays [D §3.5].

    Raises:
        KommoError: ``outcome_unknown`` says that nobody knows whether they were changed.
    """
    return await _many(client, "PATCH", "/api/v4/leads", elements, gate)


async def send_message(client: KommoClient, talk_id: int, text: str, gate: Gate | None = None) -> str | None:
    """Send a text into a talk; gives the message's id. Accepted is not delivered [D K/send-message-to-conversation].

    Raises:
        KommoError: ``outcome_unknown`` says that nobody knows whether it was sent.
    """
    answer = await client.write("POST", f"/api/v4/talks/{talk_id}/send_message", {"text": text}, gate=gate)
    found = answer.data.get("id") if isinstance(answer.data, dict) else None
    return found if isinstance(found, str) else None


async def open_talks(client: KommoClient, entity: str, entity_id: int) -> list[Talk]:
    """The open talks of a lead or contact, newest first [D K/talks: list since 2026-07-01].

    Raises:
        KommoError: ``not_found`` where there is no such list (amoCRM).
    """
    query = [("filter[only_in_work]", "1"), ("limit", "250")]
    if entity == "contacts":
        query += [("filter[contact_id][]", str(entity_id))]
    else:
        query += [("filter[entity_id]", str(entity_id)), ("filter[entity_type]", _TALK_TYPE[entity])]
    answer = await client.get("/api/v4/talks", query)
    embedded = answer.data.get("_embedded") if isinstance(answer.data, dict) else None
    items = embedded.get("talks") if isinstance(embedded, dict) else None
    talks = parse_many(Talk, items if isinstance(items, list) else [], "talks")
    return [talk for talk in talks if talk.is_in_work and _belongs(talk, entity, entity_id)]


async def contacts_of(client: KommoClient, lead_id: int) -> list[int]:
    """The contacts of a lead, the main one first; none if there is no such lead [D §3.5: `with=contacts`].

    Raises:
        KommoError: They could not be read.
    """
    answer = await client.get(f"/api/v4/leads/{lead_id}", [("with", "contacts")])
    embedded = answer.data.get("_embedded") if isinstance(answer.data, dict) else None
    items = embedded.get("contacts") if isinstance(embedded, dict) else None
    listed = items if isinstance(items, list) else []
    found = [one for one in listed if isinstance(one, dict) and isinstance(one.get("id"), int)]
    return [one["id"] for one in sorted(found, key=lambda one: not one.get("is_main"))]


def _belongs(talk: Talk, entity: str, entity_id: int) -> bool:
    if entity == "contacts":
        return talk.contact_id == entity_id
    return talk.entity_id == entity_id and talk.entity_type == _TALK_TYPE[entity]


async def tasks_of(
    client: KommoClient, entity: str | None, entity_ids: Iterable[int], since: int
) -> list[Item]:
    """Tasks that were made since a moment, of entities or, without them, of the account [D §3.8].

    Args:
        client: The account's client.
        entity: `leads`, `contacts` or `companies`; None for tasks of no entity.
        entity_ids: Which ones, at most 50.
        since: Unix seconds.

    Raises:
        KommoError: They could not be read; ``endless_listing`` if there are too many to be looked through.
    """
    query = [("filter[updated_at][from]", str(since))]
    wanted = set(entity_ids)
    if entity is not None:
        query += [("filter[entity_type]", entity)]
        query += [("filter[entity_id][]", str(number)) for number in sorted(wanted)]
    listed = Resource("tasks", "/api/v4/tasks", "tasks", order=("created_at", "desc"))
    found = await _looked_through(client, listed, query)
    return [item for item in found if (item.get("entity_id") or None) is None or item["entity_id"] in wanted]


async def notes_of(client: KommoClient, entity: str, entity_id: int, since: int) -> list[Item]:
    """Plain notes of an entity that were made since a moment (unix seconds) [D §3.9].

    Raises:
        KommoError: They could not be read.
    """
    query = [("filter[note_type][]", "common"), ("filter[updated_at][from]", str(since))]
    listed = Resource("notes", f"/api/v4/{entity}/{entity_id}/notes", "notes", order=("id", "desc"))
    found = await _looked_through(client, listed, query)
    return [item for item in found if item.get("note_type") == "common"]


async def messages_of(client: KommoClient, talk_id: int, since: int) -> list[Item]:
    """Messages of a talk since a moment (unix seconds) [D §4: scope list_external_messages].

    Raises:
        KommoError: ``forbidden`` without the scope.
    """
    listed = Resource("messages", f"/api/v4/talks/{talk_id}/messages", "messages")
    return await _looked_through(client, listed, [("filter[created_at][from]", str(since))])


async def _many(
    client: KommoClient, method: str, path: str, elements: Sequence[Item], gate: Gate | None
) -> list[Item]:
    body: Json = list(elements)
    answer = await client.write(method, path, body, gate=gate)
    embedded = path.rpartition("/")[2]
    inner = answer.data.get("_embedded") if isinstance(answer.data, dict) else None
    items = inner.get(embedded) if isinstance(inner, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


async def _looked_through(
    client: KommoClient, listed: Resource, query: Sequence[tuple[str, str]]
) -> list[Item]:
    found: list[Item] = []
    number = 0
    pages: AsyncIterator[list[Item]] = client.iterate(listed, query)
    async with aclosing(pages) as read:  # type: ignore[type-var]  # an async generator
        async for page in read:
            found += page
            number += 1
            if number >= _MOST_PAGES:
                raise KommoError(
                    ErrorKind.ENDLESS_LISTING,
                    method="GET",
                    path=listed.path,
                    detail="there is more than can be looked through for one action",
                )
    return found
