"""The request budget as rows in the database: exact over any number of processes, and nothing to release.

A row per key remembers its last places and its pace. Whoever wants to send reserves the next free place and
sleeps until then. A killed process costs the places that it had reserved and no more. Measured against other
ways in prefect-facts.md §5.

The window is the promise (R1): of any eight places at a limit of seven, the last lies 1.03 s behind the first,
so that up to 30 ms of jitter on the way cannot put eight requests into one second. The pace is GCRA: places lie
one spacing apart, and what a busy moment left unused is made up for, as far as CREDIT goes.
The same arithmetic for one process is in `kommo.budget`, which may not be imported here.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row as SqlRow
from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Database
from store.dbclock import read_clock
from store.tables import RateBudgetRow, table_of
from store.types import clean_text

_TABLE = table_of(RateBudgetRow)

DEFAULT_LIMITS: Mapping[str, float] = {"account": 7.0, "egress": 7.0}
# Seconds in which no more requests than the limit of one second start.
RESERVE = 1.03
# Seconds of unused time that are made up for; a key that was idle for longer begins anew, at its pace.
CREDIT = 0.6
# How far ahead (seconds) a lane may reserve. What is reserved cannot be taken back; within less than a spacing that is
# one place at most, so that an action lets one request at most go before it. Longer ones win no pace: measured in
# docs/decisions/2026-11-25-actions.md. An action's own is so long only that a clock gone mad cannot reserve for
# ever.
HORIZONS: Mapping[str, float] = {"action": 60.0, "webhook": 0.12, "sync": 0.06, "backfill": 0.03}
# A reservation may leave a key unused for at most this long (seconds) because of another of its keys. Without
# it one account that Kommo slowed down for a minute would, with a single reservation, push the shared egress
# a minute ahead.
MOST_IDLE = 0.3
# A slot (seconds) that is over before reserve() returns is given up: the next one would stand too close to
# it.
LATE_TOLERANCE = 0.010
LONGEST_SLOW_DOWN = 3600.0
# Seconds within which the server's clock must have answered for its time to count as exact. An answer that waited for
# a busy event loop is older than it looks: the slot would begin late, close to the one behind it.
EXACT = 0.004
_TRIES = 5
_LOOKS = 5


@dataclass(frozen=True)
class Reservation:
    """The answer to a wish to send.

    Attributes:
        granted: the slot is yours.
        wait: seconds from the moment reserve() returned: until the request may start, if granted (as little below
            zero as LATE_TOLERANCE if the slot has just begun); otherwise until it is worth asking again.
        place: names a granted slot, so that it can be handed back.
        blocked_reason: a stop on one of the keys, None if there is none.
        blocked_for: seconds until the stop ends.
    """

    granted: bool
    wait: float
    place: float | None = None
    blocked_reason: str | None = None
    blocked_for: float = 0.0


@dataclass(frozen=True)
class KeyStatus:
    """One key, for people: seconds until the next request may start, and the stop on it if there is one."""

    key: str
    next_in: float
    blocked_for: float
    blocked_reason: str | None


@dataclass(frozen=True)
class _Limit:
    """So many places in a window of so many seconds."""

    places: int
    window: float

    @property
    def spacing(self) -> float:
        return self.window / self.places


@dataclass
class _Row:
    """One key's row, and what its limit makes of it."""

    key: str
    next_at: float
    recent: list[float]
    blocked_until: float
    blocked_reason: str | None

    def free_at(self, limit: _Limit, loose: float = 0.0) -> float:
        """The earliest moment that pace and window allow; never before a place that was granted already.

        With `loose` seconds there must be room for a second place, so much later.
        """
        places = self.recent
        full = places[-limit.places] + limit.window if len(places) >= limit.places else 0.0
        if loose and len(places) >= limit.places - 1:
            full = max(full, places[1 - limit.places] + limit.window - loose)
        return max(self.next_at, full, places[-1] if places else 0.0)

    def take(self, start: float, now: float, limit: _Limit) -> None:
        behind = now - self.next_at
        self.next_at = start - (behind if 0 < behind <= CREDIT else 0.0) + limit.spacing
        # More than the window needs: a place that is handed back must not make an older one forgotten.
        self.recent = [*self.recent, start][-3 * limit.places :]

    def hand_back(self, place: float, limit: _Limit) -> None:
        if place in self.recent:
            # What lies beyond the pace is a quiet that Kommo asked for (R2), or a wide slot: nobody's to give away.
            paced = self.next_at <= self.recent[-1] + limit.spacing
            self.recent.remove(place)
            self.next_at -= limit.spacing if paced else 0.0


_NONE = _Limit(1, 0.0)


_NEVER = _Row("", 0.0, [], 0.0, None)


class DatabaseBudget:
    """The budget that all processes of an installation share."""

    def __init__(
        self,
        db: Database,
        limits: Mapping[str, float] = DEFAULT_LIMITS,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """A budget in `db`.

        Args:
            db: the store.
            limits: requests a second by the key's prefix (the part before ":"); 0: such keys are not counted.
            now: seconds since 1970; used on SQLite, whose processes share a machine. PostgreSQL is asked for
                its own.
            monotonic: seconds that never jump.
        """
        self._db = db
        self._limits = limits
        self._now = now
        self._monotonic = monotonic

    def _limit(self, key: str) -> _Limit:
        limit = self._limits.get(key.partition(":")[0])
        if limit is None or limit < 0:
            raise ValueError(
                f"No limit is set for keys such as {key[:60]!r}; known: {', '.join(self._limits)}."
            )
        return _Limit(max(1, math.floor(limit)), RESERVE * max(1.0, 1 / limit)) if limit else _NONE

    def counts(self, key: str) -> bool:
        """Whether requests count on this key; one without a limit can be stopped and nothing else."""
        return self._limit(key) is not _NONE

    async def reserve(
        self, keys: Sequence[str], lane: str, *, instead_of: float | None = None
    ) -> Reservation:
        """Reserve the next instant at which a request may start on all of these keys.

        Args:
            keys: such as `account:123` and `egress:default`; rows are made on demand.
            lane: `action`, `webhook`, `sync` or `backfill`.
            instead_of: the place of an earlier reservation on the same keys that was missed; it is handed back.

        Raises:
            ValueError: an unknown lane, or a key without a limit.
            StoreError: the database does not answer.
        """
        return await self._reserve(keys, lane, instead_of, loose=0.0)

    async def reserve_loosely(self, keys: Sequence[str], lane: str, seconds: float) -> Reservation:
        """Reserve an instant at which a request may start, or up to so many seconds later.

        It takes two places on each key, at both ends of that time: whatever window of a second the request falls into,
        one of them counts there. An account alone is rarely in a hurry; a process that works for dozens of them on a
        busy machine cannot keep every instant to 10 ms, and one that missed it would have to ask again and again.

        Args:
            keys: as for `reserve`.
            lane: likewise.
            seconds: how much later it may start, less than a second.

        Raises:
            ValueError: an unknown lane, or a key without a limit.
            StoreError: the database does not answer.
        """
        return await self._reserve(keys, lane, None, loose=seconds)

    async def _reserve(
        self, keys: Sequence[str], lane: str, instead_of: float | None, *, loose: float
    ) -> Reservation:
        horizon = HORIZONS.get(lane)
        if horizon is None:
            raise ValueError(f"There is no lane {lane[:30]!r}; the lanes are {', '.join(HORIZONS)}.")
        known = {clean_text(key): self._limit(key) for key in keys}
        limits = {key: limit for key, limit in known.items() if limit is not _NONE}
        # Looked at and not locked: a row that everybody of a large fleet had to lock would be the limit itself.
        looked_at = sorted(known.keys() - limits.keys())
        lead = 0.0
        if loose and min((limit.places for limit in limits.values()), default=2) < 2:
            loose = 0.0
        for _ in range(_TRIES):
            reservation, late = await self._reserve_once(
                limits, looked_at, horizon, lead, instead_of, loose=loose
            )
            if late <= max(LATE_TOLERANCE, loose / 2):
                return reservation
            # The database was slow to commit. Ask for a slot that lies as far ahead as that may take again.
            lead, instead_of = min(2 * (lead + late), MOST_IDLE), reservation.place
        return Reservation(granted=False, wait=max(limit.spacing for limit in known.values()))

    async def _reserve_once(
        self,
        limits: Mapping[str, _Limit],
        looked_at: Sequence[str],
        horizon: float,
        lead: float,
        instead_of: float | None,
        *,
        loose: float,
    ) -> tuple[Reservation, float]:
        """One transaction. Also gives by how much (seconds) a granted slot is over already."""
        async with self._db.begin() as connection:
            stops = await self._stops(connection, looked_at) if looked_at else []
            rows, now, seen = await self._lock(connection, sorted(limits), max(EXACT, loose / 4))
            if instead_of is not None and rows:
                for row in rows:
                    row.hand_back(instead_of, limits[row.key])
                await self._write(connection, rows)
            stop = max([*rows, *stops, _NEVER], key=lambda row: row.blocked_until)
            if stop.blocked_until > now:
                left, reason = stop.blocked_until - now, stop.blocked_reason or "blocked"
                return Reservation(granted=False, wait=left, blocked_reason=reason, blocked_for=left), 0.0
            free = [row.free_at(limits[row.key], loose) for row in rows]
            start = max([now + lead, *free])
            idle = max([start - max(now, moment) for moment in free], default=0.0)
            early = max(start - now - horizon, idle - max(MOST_IDLE, lead))
            if early <= 0 and rows:
                for row in rows:
                    row.take(start, now, limits[row.key])
                    if loose:
                        row.take(start + loose, now, limits[row.key])
                await self._write(connection, rows)
        # The row locks are gone; what they cost is not part of the wait.
        wait = (start - now) - (self._monotonic() - seen)
        if early > 0:
            return Reservation(granted=False, wait=max(early - (start - now - wait), 0.001)), 0.0
        return Reservation(granted=True, wait=wait, place=start), -wait

    async def _stops(self, connection: AsyncConnection, keys: Sequence[str]) -> list[_Row]:
        """What is known of keys that do not count: whether they are stopped."""
        found = await connection.execute(
            select(_TABLE.c.key, _TABLE.c.blocked_until, _TABLE.c.blocked_reason).where(
                _TABLE.c.key.in_(keys), _TABLE.c.blocked_until > 0.0
            )
        )
        return [_Row(row.key, 0.0, [], row.blocked_until, row.blocked_reason) for row in found]

    async def _write(self, connection: AsyncConnection, rows: Sequence[_Row]) -> None:
        await connection.execute(
            update(_TABLE)
            .where(_TABLE.c.key == bindparam("of"))
            .values(next_at=bindparam("pace"), recent=bindparam("places")),
            [{"of": row.key, "pace": row.next_at, "places": row.recent} for row in rows],
        )

    async def slow_down(self, keys: Sequence[str], seconds: float) -> None:
        """Let nothing start on these keys for so many seconds (at most an hour): Kommo answered 429 (R2)."""
        await self._push([key for key in keys if self.counts(key)], min(seconds, LONGEST_SLOW_DOWN), None)

    async def block(self, keys: Sequence[str], seconds: float, reason: str) -> None:
        """Stop these keys for so many seconds, and say why to all who ask: Kommo blocks the address (R2)."""
        await self._push(keys, seconds, reason)

    async def unblock(self, key: str) -> None:
        """Lift the stop on a key: somebody has put the cause right."""
        async with self._db.begin() as connection:
            await connection.execute(
                update(_TABLE).where(_TABLE.c.key == key).values(blocked_until=0.0, blocked_reason=None)
            )

    async def status(self) -> list[KeyStatus]:
        """All keys, in alphabetical order."""
        async with self._db.read() as connection:
            rows = (await connection.execute(select(_TABLE).order_by(_TABLE.c.key))).all()
            now = await read_clock(connection, self._now)
        return [
            KeyStatus(
                row.key,
                next_in=max(0.0, _sane(row, now).free_at(self._limit(row.key)) - now),
                blocked_for=max(0.0, row.blocked_until - now),
                blocked_reason=row.blocked_reason if row.blocked_until > now else None,
            )
            for row in rows
        ]

    async def _push(self, keys: Sequence[str], seconds: float, reason: str | None) -> None:
        async with self._db.begin() as connection:
            rows, now, _ = await self._lock(connection, sorted({clean_text(key) for key in keys}))
            until = now + max(seconds, 0.0)
            for row in rows:
                if reason is None:
                    values: dict[str, object] = {"next_at": max(row.next_at, until)}
                elif until <= row.blocked_until:
                    continue  # a longer stop is in force; its reason stays
                else:
                    values = {"blocked_until": until, "blocked_reason": reason}
                await connection.execute(update(_TABLE).where(_TABLE.c.key == row.key).values(values))

    async def _lock(
        self, connection: AsyncConnection, keys: Sequence[str], exact: float = EXACT
    ) -> tuple[list[_Row], float, float]:
        """Lock the keys' rows in the order of their names; the time as of when all are held, also on our own clock."""
        if not keys:
            return [], *await self._time(connection, exact)
        locking = select(_TABLE).where(_TABLE.c.key.in_(keys)).order_by(_TABLE.c.key).with_for_update()
        found = (await connection.execute(locking)).all()
        if len(found) < len(keys):
            await connection.execute(
                self._db.insert(_TABLE).on_conflict_do_nothing(),
                [{"key": key, "next_at": 0.0, "recent": [], "blocked_until": 0.0} for key in keys],
            )
            found = (await connection.execute(locking)).all()
        now, seen = await self._time(connection, exact)
        return [_sane(row, now) for row in found], now, seen

    async def _time(self, connection: AsyncConnection, exact: float) -> tuple[float, float]:
        """Seconds since 1970, and the moment of `monotonic` that they belong to."""
        found, took = (0.0, 0.0), math.inf
        for _ in range(_LOOKS):
            asked = self._monotonic()
            now = await read_clock(connection, self._now)
            answered = self._monotonic()
            if answered - asked < took:
                found, took = (now, (asked + answered) / 2), answered - asked
            if took <= exact:
                break
        return found


def _sane(row: SqlRow[Any], now: float) -> _Row:
    """The row, without what lies so far ahead that only a clock that was set back can explain it."""
    farthest = now + HORIZONS["action"] + 1.0
    places = [place for place in row.recent if place <= farthest]
    set_back = len(places) < len(row.recent) or row.next_at > farthest + LONGEST_SLOW_DOWN
    return _Row(
        row.key,
        now + 1.0 if set_back else row.next_at,
        places,
        row.blocked_until,
        row.blocked_reason,
    )
