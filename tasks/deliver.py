"""The task that tells the product what has happened: every org's outbox, side by side, lingering for more.

One run serves all orgs and stays for a while, because a run's start costs seconds (prefect-facts §0) and an event
should wait for a second at most. Any number of runs may work at once: an org's turn belongs to one of them. An address
that does not do is left alone for a while, by all runs; then one of them tries it with a single event.
"""

import asyncio
import logging
from collections.abc import Sequence

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from kommo.clock import Clock
from store.database import Database
from store.endpoint import (
    GONE,
    EndpointRecord,
    claim_probe,
    end_probe,
    endpoint_does,
    endpoint_state,
    rest_endpoint,
)
from store.errors import DatabaseUnavailableError
from store.outbox_letters import outbox_counts
from store.outbox_turns import OutboxTurn, take_outbox_turns
from tasks.deliver_org import Counts, Options, OrgDelivery, Sending
from tasks.delivery_marks import OUTAGE_SECONDS, HeldTurn, Marker
from tasks.delivery_report import DeliveryReport, OutboxRow
from tasks.delivery_rules import Breaker, Judgement, Verdict, rest
from tasks.endpoint import Endpoint
from tasks.posting import Poster
from tasks.signing import Signer
from tasks.waiting import set_or_after

LONGEST_DELIVERY = 900.0
"""Seconds after which a run ends though there is still work: the next one goes on, and this one's figures are seen."""
_ORGS_AT_A_TIME = 32
_MARGIN = 1 / 15  # of a turn, between the end of its last attempt and its own
_SHOWN = 200

Shard = tuple[int, int]

_log = logging.getLogger(__name__)


class DeliverySession:
    """What a run works with.

    Deliberately not a dataclass or pydantic model: Prefect walks into those when a task gets one as an argument.

    Args:
        database: The store.
        endpoint: The product's address.
        signer: Signs.
        clock: Source of time.
        owner: Whose turns these are; a name that no other run has.
        options: How events are delivered.
    """

    def __init__(
        self,
        *,
        database: Database,
        endpoint: Endpoint,
        signer: Signer,
        clock: Clock,
        owner: str,
        options: Options | None = None,
    ) -> None:
        self.database = database
        self.endpoint = endpoint
        self.signer = signer
        self.clock = clock
        self.owner = owner
        self.options = options or Options()

    def __repr__(self) -> str:
        return f"DeliverySession({self.endpoint.host!r}, {self.owner!r})"


async def deliver(
    session: DeliverySession,
    linger: float,
    *,
    orgs: Sequence[str] | None = None,
    shard: Shard | None = None,
    concurrency: int = 16,
) -> DeliveryReport:
    """Tell the product what is due, until nothing is and the time to linger is over.

    Args:
        session: What to work with.
        linger: Seconds for which it waits for more.
        orgs: Only these orgs.
        shard: Only the orgs of this shard: which, of how many.
        concurrency: How many events are sent at a time.

    Raises:
        DatabaseUnavailableError: the database was away for too long.
    """
    options, begun = session.options, session.clock.monotonic()
    marker = Marker(
        session.database,
        session.clock,
        session.owner,
        turn_seconds=options.turn_seconds,
        send_seconds=options.timeout + _MARGIN * options.turn_seconds,
    )
    poster = Poster(session.endpoint, timeout=options.timeout, now=session.clock.now)
    async with poster:
        counts = Counts()
        sending = Sending(poster, session.signer, session.clock, options, counts, concurrency=concurrency)
        run = _Run(session, marker, sending, orgs, shard)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(marker.work())
                await run.turns(group, linger, begun)
                marker.close()
        except BaseExceptionGroup as errors:
            # Of several tasks that met the same outage, one says it.
            raise _first(errors) from None
        finally:
            # A run that is cancelled, too, marks what the product has taken, and lets others go on at once.
            await asyncio.shield(marker.finish())
    seconds = round(session.clock.monotonic() - begun, 3)
    return await report_of(session, counts, seconds)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def report_of(session: DeliverySession, counts: Counts, seconds: float) -> DeliveryReport:
    """What a run came to, and how the outbox and the address stand after it."""
    state = await endpoint_state(
        session.database, session.endpoint.key, now=lambda: session.clock.now().timestamp()
    )
    return DeliveryReport(
        host=session.endpoint.host,
        state="well" if state is None else state.state,
        reason=None if state is None else state.reason,
        delivered=counts.delivered,
        failed=counts.failed,
        dead=counts.dead,
        posts=counts.posts,
        lost_turns=counts.lost_turns,
        failures=counts.failures,
        seconds=seconds,
        outbox=await outbox_rows(session.database, session.clock),
    )


async def outbox_rows(database: Database, clock: Clock) -> list[OutboxRow]:
    """Every org with something in its outbox: events that wait, or dead letters."""
    now = clock.now()
    return [
        OutboxRow(
            org=one.org,
            pending=one.pending,
            oldest_seconds=0.0
            if one.oldest_created_at is None
            else max(0.0, round((now - one.oldest_created_at).total_seconds(), 1)),
            held=one.held,
            dead=one.dead,
        )
        for one in await outbox_counts(database)
    ]


class _Run:
    """The turns of one run."""

    def __init__(
        self,
        session: DeliverySession,
        marker: Marker,
        sending: Sending,
        orgs: Sequence[str] | None,
        shard: Shard | None,
    ) -> None:
        self._session = session
        self._marker = marker
        self._sending = sending
        self._orgs = orgs
        self._shard = shard
        self._at_work = 0
        self._said = False
        self._gone = False
        self._ended = asyncio.Event()
        self._away_since: float | None = None
        self._looked_for = 0.0

    async def turns(self, group: asyncio.TaskGroup, linger: float, begun: float) -> None:
        """Take turns until nothing is due and the time is over, and wait for those that are under way."""
        clock = self._session.clock
        while not self._gone:
            # What is at work now may have more once it ends: only a look while nothing was at work is the last one.
            idle = self._at_work == 0
            taken = await self._next()
            for turn in taken:
                self._at_work += 1
                group.create_task(self._work(turn))
            waited = clock.monotonic() - begun
            if waited >= linger + LONGEST_DELIVERY or (waited >= linger and idle and not taken):
                break
            await self._rest()
        self._sending.stopped = True
        while self._at_work:
            await self._rest()

    async def _next(self) -> list[HeldTurn]:
        """The next turns; none if nothing is due, the address rests, or the database is away."""
        clock = self._session.clock
        begun = clock.monotonic()
        try:
            taken = await self._take() if await self._may_take() else []
        except DatabaseUnavailableError:
            self._away_since = begun if self._away_since is None else self._away_since
            if begun - self._away_since > OUTAGE_SECONDS:
                raise
            _log.warning("The database does not answer; the outbox waits for it.")
            return []
        self._away_since = None
        # Where looking is costly, because much is held back, it is done less often.
        self._looked_for = clock.monotonic() - begun
        return taken

    async def _may_take(self) -> bool:
        """Whether the address does, as far as all runs know; tries it if it is time to."""
        breaker = self._sending.breaker
        if breaker.tripped is not None:
            if not self._said:
                await self._let_rest(breaker.tripped, rest(breaker.tripped, 0, self._session.clock.random))
                self._said = True
            if self._at_work:
                return False
            self._sending.breaker, self._said = Breaker(self._session.options.threshold), False
        found = await endpoint_state(self._session.database, self._session.endpoint.key, now=self._seconds)
        if found is None:
            return self._at_work < _ORGS_AT_A_TIME
        self._gone = found.state == GONE
        if self._gone or found.seconds > 0:
            # Another run has found it so: nothing more of ours goes there either.
            if self._at_work and self._sending.breaker.tripped is None:
                self._sending.breaker.tripped, self._said = Judgement(Verdict.UNWELL, found.reason), True
            return False
        return self._at_work == 0 and await self._try(found)

    async def _try(self, found: EndpointRecord) -> bool:
        """Send a single event to an address that has rested; whether it does now."""
        database, key = self._session.database, self._session.endpoint.key
        seconds = self._session.options.timeout + 5.0
        tried, claimed = None, False
        for held in await self._take(limit=1):
            if await claim_probe(database, key, seconds, now=self._seconds):
                tried = await OrgDelivery(database, held, self._marker, self._sending).one(found.failures)
                claimed = True
            await self._marker.end(held)
        self._sending.breaker = Breaker(self._session.options.threshold)
        if tried is None:
            if claimed:
                await end_probe(database, key)
            return False
        judgement, seconds = tried
        if judgement.verdict is Verdict.TAKEN:
            _log.info("The product answers again.")
            await endpoint_does(database, key)
            return True
        await self._let_rest(judgement, seconds)
        return False

    async def _let_rest(self, judgement: Judgement, seconds: float) -> None:
        gone = judgement.verdict is Verdict.GONE
        reason = judgement.reason or ""
        _log.warning(
            "Nothing is sent to the product for %s. %s", "now" if gone else f"{seconds:.0f} s", reason
        )
        await rest_endpoint(
            self._session.database,
            self._session.endpoint.key,
            self._session.endpoint.host,
            seconds,
            reason,
            gone=gone,
            moment=self._session.clock.now(),
            now=self._seconds,
        )

    async def _take(self, limit: int | None = None) -> list[HeldTurn]:
        asked_at = self._session.clock.monotonic()
        turns: list[OutboxTurn] = await take_outbox_turns(
            self._session.database,
            self._session.owner,
            self._session.options.turn_seconds,
            limit=_ORGS_AT_A_TIME - self._at_work if limit is None else limit,
            orgs=self._orgs,
            shard=self._shard,
            moment=self._session.clock.now(),
            now=self._seconds,
        )
        return self._marker.hold(turns, asked_at)

    async def _work(self, held: HeldTurn) -> None:
        # If it is cancelled, or fails, the whole run does; its turns are given back all together then.
        await OrgDelivery(self._session.database, held, self._marker, self._sending).work()
        self._sending.counts.lost_turns += held.lost
        await self._marker.end(held)
        self._at_work -= 1
        self._ended.set()

    async def _rest(self) -> None:
        """Wait before looking again: there may be something new, or the org of a turn that ended may have more."""
        poll = max(self._session.options.poll, 5 * self._looked_for)
        await set_or_after(self._ended, self._session.clock, poll)

    def _seconds(self) -> float:
        return self._session.clock.now().timestamp()


@task(
    name="deliver-outbox",
    description="Tell the product what has happened, every subject in its order, and linger for more.",
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def deliver_outbox(
    session: DeliverySession,
    linger: float,
    *,
    orgs: Sequence[str] | None = None,
    shard: Shard | None = None,
    concurrency: int = 16,
) -> DeliveryReport:
    """Tell the product what has happened; see `deliver`."""
    return await deliver(session, linger, orgs=orgs, shard=shard, concurrency=concurrency)


@task(
    name="publish-delivery-report",
    description="Put how the outbox stands where people see it.",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_delivery_report(report: DeliveryReport) -> None:
    """Publish one report as the artifact `kommo-outbox`: first the orgs whose events have waited longest."""
    rows = sorted(report.outbox, key=lambda row: (-row.oldest_seconds, -row.dead, row.org))
    await acreate_table_artifact(
        [row.model_dump() for row in rows[:_SHOWN]] or [{"org": "", "pending": 0, "dead": 0}],
        key="kommo-outbox",
        description=report.summary(),
    )
