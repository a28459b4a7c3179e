"""Reading one kind of records into the mirror, page by page, and concluding what is gone (S1, S4).

How each kind is read and why nothing is lost by it: `kommo.recordkinds`. The page and the place behind it are committed
together. What a reading did not see since it began is asked for by its id, or has to be missing in two readings: a
reading that was broken off and gone on with proves nothing by itself.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kommo.errors import ErrorKind, KommoError
from kommo.listing import backwards, forwards
from kommo.recordkinds import Proof, Reading, RecordKind
from kommo.records import read_by_ids
from kommo.sweep import FilterIgnoredError, Span, sweep
from store.inbox import heard_of
from store.mirror import Change, ChangeKind
from store.mirror_rows import NewRecord
from store.outbox import OutboxEvent
from store.record_sync import (
    RecordMode,
    RecordSync,
    begin_reading,
    bury,
    end_reading,
    fail_reading,
    known_ids,
    save_page,
    unseen,
)
from tasks.collecting import few_collections
from tasks.effects import Absent, Gone, Present, effects_of_repair
from tasks.errors import sentence_of
from tasks.event_types import READ
from tasks.record_reports import KindCount
from tasks.record_session import RecordSession
from tasks.records import new_record, note_parent

OVERLAP = timedelta(minutes=1)
"""So far an incremental reading looks back behind what was seen: Kommo may show a change later than it dates it."""
SKEW = timedelta(minutes=2)
"""So far our clock may be from Kommo's, whose changes before a reading began are known by it."""
PAGES_AHEAD = 3
_AT_ONCE = 250
_RESUMABLE = frozenset({Reading.SPANS, Reading.BACKWARDS, Reading.WINDOW, Reading.FORWARDS})

Raw = Mapping[str, Any]


class KindReader:
    """Reads one kind once.

    Args:
        session: Whose.
        kind: What.
        mode: What is asked for; a kind that cannot be read incrementally is read whole.
    """

    def __init__(self, session: RecordSession, kind: RecordKind, mode: RecordMode) -> None:
        self._session = session
        self._kind = kind
        self._mode = mode if kind.incremental else RecordMode.FULL
        self._counted = session.client.requests_sent
        self._newest: int | None = None
        self._unreadable: set[str] = set()
        self._filtered = kind.reading is Reading.SPANS
        self.count = KindCount(kind=kind.name)

    async def read(self) -> KindCount:
        """Read it, to its end.

        Raises:
            KommoError: Kommo did not give it; what was stored stays, and the next run goes on.
            ReadingTakenOverError: another run reads it now.
        """
        with few_collections():
            return await self._read()

    async def _read(self) -> KindCount:
        session, began = self._session, self._session.clock.now()
        reading = await begin_reading(
            session.database,
            session.org,
            self._kind.name,
            self._mode,
            session.run_id,
            resumable=self._kind.reading in _RESUMABLE,
            now=session.stamp(),
        )
        self._newest = reading.seen_until
        self.count.mode, self.count.resumed = reading.mode, reading.resumed > 0
        try:
            async for position, page in self._pages(reading):
                await self._store(reading, position, page)
            full = reading.mode == RecordMode.FULL
            self.count.gone = await self._conclude(reading) if full else 0
            await end_reading(
                session.database,
                reading,
                watermark=self._watermark(reading),
                requests=self._requests(),
                now=session.clock.now(),
            )
        except BaseException as error:
            reason = sentence_of(error)
            await fail_reading(session.database, reading, reason, now=session.clock.now())
            raise
        finally:
            self.count.seconds = round((session.clock.now() - began).total_seconds(), 3)
        if self._unreadable:
            self.count.note = " ".join(
                [*([self.count.note] if self.count.note else []), *sorted(self._unreadable)]
            )
        return self.count

    async def _pages(self, reading: RecordSync) -> AsyncIterator[tuple[Any, list[NewRecord]]]:
        """Pages as rows, each with what is left to read behind it."""
        pages = {
            Reading.SPANS: self._spans,
            Reading.BACKWARDS: self._backwards,
            Reading.WINDOW: self._window,
            Reading.FORWARDS: self._forwards,
            Reading.WHOLE: self._whole,
            Reading.PARTS: self._parts,
        }[self._kind.reading](reading)
        async for position, page in pages:
            yield position, page

    async def _spans(self, reading: RecordSync) -> AsyncIterator[tuple[Any, list[NewRecord]]]:
        position = reading.position or {}
        if "page" not in position:
            try:
                async for one in self._sweeps(reading, position):
                    yield one
            except FilterIgnoredError:
                # Not sold to this account, or not there: by id then, which takes no filter.
                self._filtered = False
                self.count.note = "Kommo does not filter by time here; it was read whole."
            else:
                return
        async for one in self._backwards(replace(reading, watermark=None)):
            yield one

    async def _sweeps(
        self, reading: RecordSync, position: Mapping[str, Any]
    ) -> AsyncIterator[tuple[Any, list[NewRecord]]]:
        """Everything, and then once more what changed meanwhile; or what changed since the watermark."""
        full = reading.mode == RecordMode.FULL
        begin = 0 if full or reading.watermark is None else reading.watermark
        tail = bool(position.get("tail"))
        spans = [Span(*one) for one in position["spans"]] if "spans" in position else [Span(begin)]
        pages = 0
        while True:
            swept = sweep(
                self._session.client.get,
                self._kind.resource,
                spans,
                by="updated_at",
                now=self._session.stamp,
            )
            async with aclosing(swept) as portions:
                async for portion in portions:
                    pages += 1
                    left = [[span.start, span.end, span.page] for span in portion.left]
                    yield (
                        {"spans": left, "tail": tail},
                        self._rows(portion.items, portion.read_at),
                    )
            # What one request gave cannot have moved while it was read.
            if not full or tail or (pages == 1 and not position):
                return
            tail, spans = True, [Span(int((reading.started_at - SKEW).timestamp()))]

    async def _backwards(self, reading: RecordSync) -> AsyncIterator[tuple[Any, list[NewRecord]]]:
        begin = (reading.position or {}).get("page")
        if begin == 0:
            return
        params: list[tuple[str, str]] = []
        if reading.mode == RecordMode.INCREMENTAL and reading.watermark is not None and self._kind.since:
            params = [(f"filter[{self._kind.since}][from]", str(reading.watermark))]
        pages = backwards(self._session.client.get, self._kind.resource, params, begin=begin)
        read_at = self._session.stamp()
        async with aclosing(pages):
            async for page in pages:
                yield {"page": page.number - 1}, self._rows(page.items, read_at)
                read_at = self._session.stamp()

    async def _window(self, reading: RecordSync) -> AsyncIterator[tuple[Any, list[NewRecord]]]:
        since = self._kind.since
        params = [(f"filter[{since}][to]", str(self._window_end(reading)))]
        if reading.mode == RecordMode.INCREMENTAL and reading.watermark is not None:
            params.append((f"filter[{since}][from]", str(reading.watermark)))
        async for one in self._numbered(reading, params, ahead=PAGES_AHEAD):
            yield one

    async def _forwards(self, reading: RecordSync) -> AsyncIterator[tuple[Any, list[NewRecord]]]:
        async for one in self._numbered(reading, [], ahead=0):
            yield one

    async def _numbered(
        self, reading: RecordSync, params: Sequence[tuple[str, str]], *, ahead: int
    ) -> AsyncIterator[tuple[Any, list[NewRecord]]]:
        begin = (reading.position or {}).get("page", 1)
        if begin == 0:
            return
        pages = forwards(self._session.client.get, self._kind.resource, params, begin=begin, ahead=ahead)
        read_at = self._session.stamp()
        async with aclosing(pages):
            async for page in pages:
                # The time of the first question: with pages on their way, none is older than that.
                yield {"page": page.number + 1 if page.more else 0}, self._rows(page.items, read_at)

    async def _whole(self, reading: RecordSync) -> AsyncIterator[tuple[Any, list[NewRecord]]]:
        del reading
        read_at = self._session.stamp()
        items = await self._session.client.read_all(self._kind.resource)
        for start in range(0, len(items), _AT_ONCE):
            yield None, self._rows(items[start : start + _AT_ONCE], read_at)

    async def _parts(self, reading: RecordSync) -> AsyncIterator[tuple[Any, list[NewRecord]]]:
        assert self._kind.of is not None  # noqa: S101 - what PARTS means
        for parent in await known_ids(self._session.database, reading.org, self._kind.of):
            resource = replace(
                self._kind.resource, path=self._kind.resource.path.replace("{parent}", str(parent))
            )
            read_at = self._session.stamp()
            try:
                async for page in forwards(self._session.client.get, resource):
                    yield None, self._rows(page.items, read_at, parent=(self._kind.of, parent))
                    read_at = self._session.stamp()
            except KommoError as error:
                if self._kind.needs_scope is None or error.kind is not ErrorKind.FORBIDDEN:
                    raise
                self.count.note = f"Kommo refuses it: the token has not the scope {self._kind.needs_scope}."
                return

    def _rows(
        self, items: Sequence[Raw], read_at: datetime, parent: tuple[str, int] | None = None
    ) -> list[NewRecord]:
        """What can be read of a page; what cannot is named once and stops nothing."""
        if parent is None and self._kind.name.endswith("_notes"):
            entity = self._kind.resource.path.split("/")[-2]
            parents: Sequence[tuple[str, int] | None] = [note_parent(entity, item) for item in items]
        else:
            parents = [parent] * len(items)
        rows = []
        for item, of in zip(items, parents, strict=True):
            if item.get("is_deleted") is True:
                continue
            try:
                rows.append(new_record(item, read_at=read_at, id_key=self._kind.key, parent=of))
            except ValueError as error:
                self._unreadable.add(str(error))
            changed = item.get("updated_at")
            if isinstance(changed, int) and not isinstance(changed, bool):
                self._newest = max(changed, self._newest or 0)
        return rows

    async def _store(self, reading: RecordSync, position: Any, page: Sequence[NewRecord]) -> None:  # noqa: ANN401 - JSON
        session = self._session

        async def tell(changes: Mapping[int, Change]) -> Sequence[OutboxEvent]:
            return await self._told(reading, page, changes)

        requests = self._requests()
        saved = await save_page(
            session.database,
            reading,
            page,
            position,
            requests=requests,
            now=session.clock.now(),
            seen_until=self._newest,
            tell=tell if session.told and self._kind.name in READ else None,
        )
        self.count.pages += 1
        self.count.records += len(page)
        self.count.added += saved.added
        self.count.changed += saved.changed
        if session.on_page is not None:
            await session.on_page(self.count)

    async def _told(
        self, reading: RecordSync, page: Sequence[NewRecord], changes: Mapping[int, Change]
    ) -> list[OutboxEvent]:
        """What the product has not heard, though it changed: nobody else will find it, now that the mirror has it."""
        fresh = {
            number: change
            for number, change in changes.items()
            if change.kind in {ChangeKind.UPDATED, ChangeKind.RESTORED}
            # What was there before anything was read is no news.
            or (change.kind is ChangeKind.CREATED and _is_new(change, reading))
        }
        if not fresh:
            return []
        session, entity = self._session, self._kind.name
        heard = await heard_of(session.database, session.org, entity, [str(number) for number in fresh])
        told: list[OutboxEvent] = []
        for one in page:
            change = fresh.get(one.record_id)
            if change is None or change.after.read_at != one.read_at:
                continue
            known = heard.get(str(one.record_id))
            moment = known.occurred_at if known else None
            if (
                change.kind is not ChangeKind.RESTORED
                and moment is not None
                and one.updated_at is not None
                and moment >= one.updated_at
            ):
                continue  # the backlog tells it
            told += effects_of_repair(
                session.source, entity, one.record_id, Present(one.raw, change), read_at=one.read_at
            )
        return told

    async def _conclude(self, reading: RecordSync) -> int:
        """What is gone, as far as that is proved; how many records."""
        if self._kind.proof is Proof.BY_ID:
            return await self._ask_for_unseen(reading)
        may_be_absent = self._kind.resource.absent_statuses and not self.count.records
        if self._kind.proof is Proof.NEVER or may_be_absent or reading.completed_at is None:
            return 0
        session, gone, last = self._session, 0, None
        # Not seen by this reading, nor by the complete one before it.
        while ids := await unseen(
            session.database, reading.org, reading.entity, before=reading.completed_at, after=last
        ):
            gone += await bury(
                session.database, reading, ids, read_at=reading.started_at, now=session.clock.now()
            )
            last = ids[-1]
        return gone

    async def _ask_for_unseen(self, reading: RecordSync) -> int:
        session, entity, gone, last = self._session, self._kind.name, 0, None
        while ids := await unseen(
            session.database, session.org, entity, before=reading.started_at, after=last
        ):
            for start in range(0, len(ids), _AT_ONCE):
                some, read_at = ids[start : start + _AT_ONCE], session.stamp()
                there = await read_by_ids(session.client, entity, some)
                if there:
                    await self._store(reading, {"page": 0}, self._rows(list(there.values()), read_at))
                absent = [number for number in some if number not in there]

                def tell(numbers: Sequence[int], read_at: datetime = read_at) -> list[OutboxEvent]:
                    return [
                        event
                        for number in numbers
                        for event in effects_of_repair(
                            session.source,
                            entity,
                            number,
                            Absent(Gone.DELETED, changed=True),
                            read_at=read_at,
                        )
                    ]

                gone += await bury(
                    session.database,
                    reading,
                    absent,
                    read_at=read_at,
                    now=session.clock.now(),
                    tell=tell if session.told else None,
                )
            last = ids[-1]
        return gone

    def _watermark(self, reading: RecordSync) -> int | None:
        """From when on the next incremental reading has to look, by Kommo's clock."""
        if not self._kind.incremental:
            return None
        if self._kind.reading is Reading.WINDOW:
            return self._window_end(reading) - int(SKEW.total_seconds())
        began = int((reading.started_at - SKEW).timestamp())
        if not self._filtered:
            return began  # read in another order than that of the changes
        # A time that is yet to come, which a client can write, must not hide what changes until then.
        newest = min(self._newest or 0, int(self._session.stamp().timestamp()))
        return max(newest - int(OVERLAP.total_seconds()), began)

    def _window_end(self, reading: RecordSync) -> int:
        return int((reading.started_at - OVERLAP).timestamp())

    def _requests(self) -> int:
        sent = self._session.client.requests_sent
        new, self._counted = sent - self._counted, sent
        self.count.requests += new
        return new


def _is_new(change: Change, reading: RecordSync) -> bool:
    """Whether a record that the mirror meets now was made after a whole reading, which did not have it."""
    created, before = change.after.created_at, reading.completed_at
    return created is not None and before is not None and created >= before.astimezone(UTC) - SKEW
