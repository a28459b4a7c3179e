"""What is known of an org's CRM, for checking actions against: its newest snapshots, remembered for a moment."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from kommo.clock import Clock
from store.database import Database
from store.errors import NoSnapshotError
from store.snapshots import SnapshotView, read_snapshot

REMEMBERED = 2.0
"""Seconds for which a snapshot is not read again: a batch of actions asks the same of it."""
_MOST = 256


class Facts:
    """Reads snapshots; one for all actions of a process."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[float, SnapshotView | None]] = OrderedDict()

    async def find(self, org: str, kind: str) -> SnapshotView | None:
        """The newest snapshot of one kind; None if it was never read (not every user of Kommo may see all)."""
        now, key = self._clock.monotonic(), (org, kind)
        known = self._known.get(key)
        if known is not None and known[0] > now:
            return known[1]
        try:
            view = await read_snapshot(self._database, org, kind)
        except NoSnapshotError:
            view = None
        self._known[key] = (now + REMEMBERED, view)
        self._known.move_to_end(key)
        # The oldest stand first: what is too old is not held for weeks because nobody asks for it again.
        while len(self._known) > _MOST or next(iter(self._known.values()))[0] <= now:
            self._known.popitem(last=False)
        return view

    async def require(self, org: str, kind: str) -> SnapshotView:
        """The newest snapshot of one kind.

        Raises:
            NoSnapshotError: it was never read.
        """
        view = await self.find(org, kind)
        # Asked once more for its sentence, which says what to do.
        return view if view is not None else await read_snapshot(self._database, org, kind)

    async def timezone(self, org: str) -> str | None:
        """The account's time zone, if it is known."""
        view = await self.find(org, "account")
        zone = view.items[0].get("timezone") if view and view.items else None
        return zone if isinstance(zone, str) else None


def item_of(view: SnapshotView, number: int) -> Mapping[str, Any] | None:
    """The item with this id."""
    return next((item for item in view.items if item["id"] == number), None)
