"""Reads the entities that events speak of, many at a time, and finds out which of them cannot be read.

One that Kommo cannot give must not take the others with it (W3): a request that fails in a way that one item may be to
blame for is divided until that item is alone. But an outage fails the same way for every item, and must not end in
thousands of dead letters: so first something is read that was good before. If that fails as well, no item is to blame.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kommo.client import KommoClient
from kommo.errors import ErrorKind, KommoError
from kommo.records import read_by_ids
from tasks.errors import sentence_of

_ITEM = frozenset(
    {
        ErrorKind.VALIDATION,
        ErrorKind.LIMIT,
        ErrorKind.MALFORMED,
        ErrorKind.TOO_LARGE,
        ErrorKind.UNEXPECTED_STATUS,
        ErrorKind.SERVER_ERROR,
        ErrorKind.GATEWAY,
        ErrorKind.UNSTABLE_LISTING,
        ErrorKind.ENDLESS_LISTING,
    }
)
"""Kinds that a single item may be to blame for."""
_PROBES = 40
"""Requests spent on finding the items to blame in one reading; what is not found out then waits for the next turn."""
_PROBES_IN_VAIN = 8
"""After so many without a single answer, and nothing to compare with, it is taken for an outage."""

Known = Callable[[str, Sequence[int]], Awaitable[int | None]]
"""Gives the id of something of this entity that could be read before and is not one of these, or None."""


@dataclass
class Reading:
    """What came of reading some ids.

    Attributes:
        answered: The ids that Kommo was asked for and answered, whether it has them or not.
        records: What it gave, by id.
        blamed: Ids that cannot be read, each with the reason.
    """

    answered: set[int] = field(default_factory=set)
    records: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    blamed: dict[int, str] = field(default_factory=dict)


async def read_records(client: KommoClient, entity: str, ids: Sequence[int], known: Known) -> Reading:
    """Read entities by their ids.

    Args:
        client: Of the org's account.
        entity: leads, contacts, companies or tasks.
        ids: Each once, at most 250.
        known: Finds something to compare with.

    Returns:
        What is known now; ids that are neither answered nor blamed wait for the next turn.

    Raises:
        KommoError: nothing could be read, and no single item is to blame.
    """
    reading = Reading()
    try:
        await _take(reading, client, entity, ids)
    except KommoError as error:
        if error.kind not in _ITEM:
            raise
        compared = await _works(client, entity, await known(entity, ids), error)
        await _isolate(reading, client, entity, ids, error, compared=compared)
    return reading


async def _works(client: KommoClient, entity: str, known: int | None, error: KommoError) -> bool:
    """Whether something that was good before can be read now; False if there is nothing to compare with.

    Raises:
        KommoError: it cannot: the first error, of which no item is to blame.
    """
    if known is None:
        return False
    try:
        await read_by_ids(client, entity, [known])
    except KommoError as found:
        raise error if found.kind in _ITEM else found from None
    return True


async def _isolate(
    reading: Reading,
    client: KommoClient,
    entity: str,
    ids: Sequence[int],
    error: KommoError,
    *,
    compared: bool,
) -> None:
    """Divide what failed until those to blame are alone."""
    failed: list[tuple[Sequence[int], KommoError]] = [(ids, error)]
    alone: dict[int, KommoError] = {}
    probes = 0
    while failed and probes < _PROBES:
        part, met = failed.pop()
        if len(part) == 1:
            alone[part[0]] = met
            continue
        if not compared and not reading.answered and probes >= _PROBES_IN_VAIN:
            raise error
        middle = len(part) // 2
        for half in (part[middle:], part[:middle]):
            probes += 1
            try:
                await _take(reading, client, entity, half)
            except KommoError as found:
                if found.kind not in _ITEM:
                    raise
                failed.append((half, found))
    if not compared and not reading.answered and len(ids) > 1:
        raise error
    reading.blamed = {number: sentence_of(met) for number, met in alone.items()}


async def _take(reading: Reading, client: KommoClient, entity: str, ids: Sequence[int]) -> None:
    records = await read_by_ids(client, entity, ids)
    reading.answered.update(ids)
    reading.records.update(records)
