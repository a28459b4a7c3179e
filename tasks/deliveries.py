"""From a delivery's bytes to events of the inbox; and once more, for those that could not be read at first (W1)."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from kommo.webhooks import BodyTooLargeError, Delivery, UnreadableBodyError, parse
from store.connections import ConnectionState, find_connections, get_connection
from store.database import Database
from store.errors import DatabaseForbiddenError, DatabaseUnavailableError, UnknownConnectionError
from store.inbox import (
    NewDelivery,
    NewEvent,
    StoredDelivery,
    save_deliveries,
    save_parsed,
    unreadable_deliveries,
)

NOBODYS = "No connected org has the account that the body names."
_PAGE = 20  # each may have a megabyte
_ANOTHERS = "The body is not of the account that its org is connected to."
_ENDED = (ConnectionState.DISCONNECTED, ConnectionState.FAILED)


@dataclass
class ReadAgain:
    """What came of reading unreadable deliveries once more.

    Attributes:
        read: Deliveries that could be read now.
        events: Events in them that are new.
        still: Those that cannot be read: id of the delivery → why.
    """

    read: int = 0
    events: int = 0
    still: dict[str, str] = field(default_factory=dict)


def inbox_events(told: Delivery) -> tuple[NewEvent, ...]:
    """The events of a parsed body as the inbox takes them."""
    return tuple(
        NewEvent(
            one.entity,
            one.action,
            one.entity_id,
            one.parent,
            one.occurred_at,
            one.unique_key,
            one.payload,
        )
        for one in told.events
    )


async def orgs_of_account(database: Database, account_id: int) -> tuple[str, ...]:
    """The orgs that are connected to an account."""
    found = await find_connections(database, account_id=account_id)
    return tuple(one.org for one in found if one.state not in _ENDED)


async def read_again(
    database: Database,
    *,
    org: str | None = None,
    ids: Sequence[str] | None = None,
    since: datetime | None = None,
) -> ReadAgain:
    """Read deliveries that could not be read, or were nobody's: the program or the connections may have changed.

    Args:
        database: The store.
        org: Only this org's; those that were nobody's belong to none.
        ids: Only these deliveries.
        since: Only those that came at this time or later.
    """
    done, after = ReadAgain(), None
    while page := await unreadable_deliveries(database, org, limit=_PAGE, after=after):
        after = page[-1].received_at, page[-1].delivery_id
        for one in page:
            if (ids is None or one.delivery_id in ids) and (since is None or one.received_at >= since):
                await _one(database, one, done)
    return done


async def _one(database: Database, one: StoredDelivery, done: ReadAgain) -> None:
    """Read one; whatever is wrong with it does not keep the rest from being read."""
    try:
        await _read(database, one, done)
    except (DatabaseUnavailableError, DatabaseForbiddenError):
        raise
    except Exception as error:  # noqa: BLE001 - it may be unreadable just because the database refuses its events
        done.still[one.delivery_id] = (
            f"Its events could not be written ({type(error).__name__}). That is a fault of this program."
        )


async def _read(database: Database, one: StoredDelivery, done: ReadAgain) -> None:
    try:
        told = parse(one.body, one.content_type, request_id=one.request_id)
    except (UnreadableBodyError, BodyTooLargeError) as error:
        done.still[one.delivery_id] = str(error)
        return
    except Exception as error:  # noqa: BLE001 - the rest is read all the same
        done.still[one.delivery_id] = (
            f"Reading it failed ({type(error).__name__}). That is a fault of this program."
        )
        return
    events = inbox_events(told)
    orgs: tuple[str, ...] = (one.org,)
    if not one.org:
        orgs = () if told.account_id is None else await orgs_of_account(database, told.account_id)
        if not orgs:
            done.still[one.delivery_id] = NOBODYS
            return
    elif await _is_anothers(database, one.org, told.account_id):
        # The door would have refused it, had it been able to read it.
        done.still[one.delivery_id] = _ANOTHERS
        return
    # The delivery itself last: whoever is interrupted before reads it again, and repetitions are flagged.
    copies = [_copy(one, org, told.account_id, events) for org in orgs[1:]]
    new = sum(saved.new for saved in await save_deliveries(database, copies))
    saved = await save_parsed(database, one.delivery_id, events, org=orgs[0])
    if saved is not None:  # nobody else has done it meanwhile
        done.read += 1
        done.events += new + saved.new


async def _is_anothers(database: Database, org: str, account_id: int | None) -> bool:
    try:
        known = (await get_connection(database, org)).account_id
    except UnknownConnectionError:
        return False
    return None not in {known, account_id} and known != account_id


def _copy(one: StoredDelivery, org: str, account_id: int | None, events: tuple[NewEvent, ...]) -> NewDelivery:
    return NewDelivery(
        delivery_id=uuid.uuid4().hex,
        org=org,
        account_id=account_id,
        door=one.door,
        received_at=one.received_at,
        content_type=one.content_type,
        headers=one.headers,
        request_id=one.request_id,
        body=one.body,
        events=events,
    )
