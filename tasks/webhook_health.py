"""The task that looks after every org's webhooks: is the subscription there and on, and what was missed (W5)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field

from kommo.clock import Clock
from store.connections import ConnectionRecord, get_connection
from store.database import Database
from store.errors import UnknownConnectionError
from store.shards import Shard
from store.subscriptions import SubscriptionState, waiting_for_a_check
from tasks.backlog_clients import Clients
from tasks.completeness import percent
from tasks.errors import sentence_of
from tasks.reconcile import GRACE, Reconciler, ReconcileReport, compared_until, where_to_begin
from tasks.subscription import Door, Found, setup_webhook

_PAGE = 500
_SHOWN = 200

Announce = Callable[[str, str, dict[str, object]], None]
"""Emits a Prefect event: name, org, payload."""


class HookHealth(BaseModel):
    """How one org's webhooks were found, and what was done about it."""

    org: str
    found: str = Field(description="good, disabled, missing, incomplete; unknown where Kommo did not say.")
    state: str = Field(description="How the subscription stands now: on, off, disabled, missing.")
    reason: str | None = None
    reconciled: ReconcileReport | None = None


class HealthReport(BaseModel):
    """What one look at all webhooks came to. Holds no key and no address with one."""

    orgs: list[HookHealth] = Field(
        default_factory=list, description="The first orgs; of a large fleet those only that need somebody."
    )
    failed: dict[str, str] = Field(
        default_factory=dict, description="Org → why, as a sentence; the first of them."
    )
    seen: int = Field(default=0, description="How many orgs were looked at, at least in part.")
    unseen: int = Field(default=0, description="How many orgs could not be looked at.")
    on: int = Field(default=0, description="How many subscriptions are on now.")
    mended: int = 0
    compared: int = 0
    changes: int = Field(default=0, description="Changes in the accounts that were compared.")
    arrived: int = Field(default=0, description="How many of these had come by webhook.")
    failures: int = Field(
        default=0, description="How many orgs failed; those among them that were seen in part."
    )
    seconds: float = 0.0

    def fail(self, org: str, reason: str, health: HookHealth | None = None) -> None:
        """Count an org that could not be looked at, or not to the end."""
        if health is None:
            self.unseen += 1
        else:
            self.count(health)
        self.failures += 1
        if len(self.failed) < _SHOWN:
            self.failed[org] = reason

    def count(self, one: HookHealth) -> None:
        """Count an org that was looked at; its details are kept as long as there is room, trouble longest."""
        mended = one.found not in {Found.GOOD, "unknown"}
        self.seen += 1
        self.on += one.state == SubscriptionState.ON
        self.mended += mended
        if one.reconciled is not None:
            self.compared += 1
            self.changes += one.reconciled.total("changes")
            self.arrived += one.reconciled.total("arrived")
        well = one.state == SubscriptionState.ON and not mended
        if len(self.orgs) < (_SHOWN if well else 2 * _SHOWN):
            self.orgs.append(one)

    def summary(self) -> str:
        """One line for a log, an artifact and the terminal."""
        came = (
            f", {percent(self.arrived / self.changes)} of {self.changes} changes had come"
            if self.changes
            else ""
        )
        return (
            f"{self.on} of {self.seen + self.unseen} subscriptions are on, {self.mended} mended; "
            f"{self.compared} orgs compared{came}"
            f"{f'; {self.failures} failed' if self.failures else ''} in {self.seconds:.1f} s"
        )


class HealthSession:
    """What the tasks work with.

    Deliberately not a dataclass or pydantic model: Prefect walks into those when a task gets one as an argument.

    Args:
        database: The store.
        clients: Where the clients come from.
        door: Where Kommo is to send to.
        clock: Source of time.
        announce: Emits Prefect events.
    """

    def __init__(
        self, *, database: Database, clients: Clients, door: Door, clock: Clock, announce: Announce
    ) -> None:
        self.database = database
        self.clients = clients
        self.door = door
        self.clock = clock
        self.announce = announce

    def __repr__(self) -> str:
        return "HealthSession()"


@task(
    name="check-webhooks",
    description="See that every org's webhook subscription is on, and compare with the API what may have been missed.",
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def check_webhooks(
    session: HealthSession,
    *,
    orgs: list[str] | None,
    shard: Shard | None = None,
    compare_after: timedelta,
    grace: timedelta = GRACE,
    concurrency: int = 8,
) -> HealthReport:
    """Look after the webhooks of all orgs, several at a time; one that fails does not stop the rest.

    Args:
        session: What to work with.
        orgs: Only these.
        shard: Only this part of the orgs.
        compare_after: An org whose last comparison is older than this is compared, even if all seems well.
        grace: Changes younger than this are left to the next comparison.
        concurrency: How many orgs at a time.
    """
    report, begun, turn = HealthReport(), session.clock.monotonic(), asyncio.Semaphore(concurrency)

    async def one(connection: ConnectionRecord) -> None:
        org, health = connection.org, None
        try:
            async with session.clients.use(connection) as client:
                subscription, found = await setup_webhook(
                    client, connection, session.door, database=session.database, clock=session.clock
                )
                health = HookHealth(
                    org=org,
                    found=(found or "unknown"),
                    state=subscription.state,
                    reason=subscription.reason,
                )
                if found in {Found.DISABLED, Found.MISSING, Found.INCOMPLETE}:
                    session.announce(f"kommo.webhooks.{found}", org, {"state": subscription.state})
                # A comparison that somebody made of the last hour says nothing of the day before.
                now = session.clock.now()
                until = await compared_until(session.database, org, now)
                due = until is None or until < now - compare_after
                # An account that may not have webhooks is read all the more; one that cannot be asked is not.
                refused = session.door.base is not None and subscription.state == SubscriptionState.OFF
                if (found is not None and (found is not Found.GOOD or due)) or (refused and due):
                    since = await where_to_begin(session.database, org, now)
                    worker = Reconciler(session.database, client, connection, session.clock)
                    health.reconciled = await worker.run(since, grace=grace)
                    announce_reconciled(session.announce, health.reconciled)
        except Exception as error:  # noqa: BLE001 - whatever it was, the others go on and the report names it
            report.fail(org, sentence_of(error), health)
        else:
            report.count(health)

    async def in_turn(connection: ConnectionRecord) -> None:
        try:
            await one(connection)
        finally:
            turn.release()

    async with asyncio.TaskGroup() as group:
        async for connection in _asked_for(session.database, orgs, shard, session.clock.now(), report):
            await turn.acquire()
            group.create_task(in_turn(connection))
    report.orgs.sort(key=lambda health: health.org)
    report.seconds = round(session.clock.monotonic() - begun, 3)
    return report


@task(
    name="reconcile-org",
    description="Compare an org's webhooks with the API, repair what was missed, count it.",
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def reconcile_org(
    session: HealthSession, org: str, since: datetime | None, *, grace: timedelta = GRACE
) -> ReconcileReport:
    """Compare one org.

    Args:
        session: What to work with.
        org: The product's tenant.
        since: From this moment on; by default from the end of the last comparison.
        grace: Changes younger than this are left to the next comparison.

    Raises:
        UnknownConnectionError: the org has no connection.
        KommoError: Kommo could not be asked.
    """
    connection = await get_connection(session.database, org)
    begin = since or await where_to_begin(session.database, org, session.clock.now())
    async with session.clients.use(connection) as client:
        report = await Reconciler(session.database, client, connection, session.clock).run(begin, grace=grace)
    announce_reconciled(session.announce, report)
    return report


def announce_reconciled(announce: Announce, report: ReconcileReport) -> None:
    """Tell automations how complete an org's webhooks were: a figure that is to be watched."""
    announce(
        "kommo.webhooks.reconciled",
        report.org,
        {
            "completeness": report.share,
            **{name: report.total(name) for name in ("changes", "arrived", "repaired")},
            "told": report.told,
            "since": report.since.isoformat(),
            "until": report.until.isoformat(),
        },
    )


@task(
    name="publish-webhook-health",
    description="Put how the webhooks stand and how complete they were where people see it.",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_webhook_health(report: HealthReport) -> None:
    """Publish one report as the artifact `kommo-webhook-health`: first the orgs that need somebody."""
    rows = [
        {"org": org, "found": "failed", "now": "", "completeness": "", "why": why}
        for org, why in report.failed.items()
    ]
    rows += [
        _row(
            one.org,
            one.found,
            one.state,
            "" if one.reconciled is None else percent(one.reconciled.share),
            one.reason or "",
        )
        for one in sorted(
            report.orgs, key=lambda one: (one.state == SubscriptionState.ON, one.found == Found.GOOD)
        )
    ]
    await acreate_table_artifact(
        rows[:_SHOWN] or [_row("", "no org is connected")],
        key="kommo-webhook-health",
        description=report.summary(),
    )


@task(
    name="publish-webhook-completeness",
    description="Put how complete an org's webhooks were where people see it.",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_completeness(report: ReconcileReport) -> None:
    """Publish one comparison as the artifact `kommo-webhook-completeness-ORG`."""
    await acreate_table_artifact(
        [{"entity": name, **count.model_dump()} for name, count in report.by_entity.items()],
        key=f"kommo-webhook-completeness-{report.org}",
        description=report.summary(),
    )


def _row(org: str, found: str, now: str = "", completeness: str = "", why: str = "") -> dict[str, str]:
    return {"org": org, "found": found, "now": now, "completeness": completeness, "why": why}


async def _asked_for(
    database: Database, orgs: list[str] | None, shard: Shard | None, begun: datetime, report: HealthReport
) -> AsyncIterator[ConnectionRecord]:
    """The connections that are to be looked at; an org that was named and has none is a failure."""
    for org in orgs or ():
        try:
            yield await get_connection(database, org)
        except UnknownConnectionError as error:
            report.fail(org, sentence_of(error))
    after: str | None = None
    while orgs is None:
        page = await waiting_for_a_check(database, begun=begun, shard=shard, after=after, limit=_PAGE)
        for record in page.items:
            yield record
        after = page.next_after
        if after is None:
            return
