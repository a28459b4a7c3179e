"""What this process has answered, and how much is waiting, for Prometheus. No orgs by name, no keys, no addresses.

What is answered is counted here, per process; what waits is counted in the database, for the whole installation, and
asked for at most every few seconds however many ask.
"""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.remembered import Remembered
from kommo.clock import Clock
from store.database import Database
from store.gauges import Gauges, read_gauges

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
"""What all addresses without a door are counted as: else strangers could make up as many as they like."""
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
# A webhook is answered in a few milliseconds, an action in a second, a sync in up to a minute.
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_FRESH_SECONDS = 5.0
_PATIENCE = 5.0


class Metrics:
    """The counts of one gateway.

    Args:
        database: An open database.
        clock: Source of time.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "kommo_gateway_requests",
            "Requests that were answered.",
            ("door", "method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "kommo_gateway_request_seconds",
            "How long answering took.",
            ("door", "method"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._waiting: Remembered[str, Gauges] = Remembered(
            self._read, clock, seconds=_FRESH_SECONDS, patience=_PATIENCE
        )

    def answered(self, door: str | None, method: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            door: The pattern of its path; None where there is no such door.
            method: The HTTP method.
            status: The HTTP status.
            seconds: How long it took.
        """
        named = (door or OTHER, method if method in _METHODS else OTHER, status)
        children = self._children.get(named)
        if children is None:
            door, method, _ = named
            children = (
                self._requests.labels(door, method, str(status)),
                self._seconds.labels(door, method),
            )
            self._children[named] = children
        children[0].inc()
        children[1].observe(seconds)

    async def text(self, taken_in: Mapping[str, int]) -> bytes:
        """Everything, as Prometheus reads it.

        Args:
            taken_in: Deliveries of webhooks since the process began, by what became of them.

        Raises:
            LookupBusyError: The database takes too long.
            StoreError: The database is away.
        """
        gauges = await self._waiting.get("")
        registry = CollectorRegistry()
        registry.register(_Counted(gauges, taken_in, self._clock))
        return generate_latest(self._registry) + generate_latest(registry)

    async def close(self) -> None:
        """Give up what is being counted."""
        await self._waiting.close()

    async def _read(self, _: str) -> Gauges:
        return await read_gauges(self._database)


class _Counted(Collector):
    """What was counted elsewhere."""

    def __init__(self, gauges: Gauges, taken_in: Mapping[str, int], clock: Clock) -> None:
        self._gauges = gauges
        self._taken_in = taken_in
        self._now = clock.now()

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        deliveries = CounterMetricFamily(
            "kommo_gateway_webhooks",
            "Deliveries of webhooks: stored, repeated (among those stored), refused because there were too many.",
            labels=["outcome"],
        )
        for outcome, number in self._taken_in.items():
            deliveries.add_metric([outcome], number)
        yield deliveries
        found = self._gauges
        yield _gauge("kommo_backlog_pending", "Events of webhooks that wait to be worked off.", found.pending)
        yield _gauge(
            "kommo_backlog_oldest_seconds",
            "Age of the oldest event that waits.",
            0.0
            if found.oldest_received_at is None
            else max(0.0, (self._now - found.oldest_received_at).total_seconds()),
        )
        yield _gauge("kommo_backlog_dead", "Events of webhooks that were given up.", found.dead)
        yield _gauge("kommo_backlog_unreadable", "Deliveries that cannot be read.", found.unreadable)
        outbox = GaugeMetricFamily("kommo_outbox_events", "Events for the product.", labels=["state"])
        for state in ("pending", "dead"):
            outbox.add_metric([state], found.outbox.get(state, 0))
        yield outbox
        yield _gauge(
            "kommo_outbox_oldest_seconds",
            "Age of the oldest event that the product has not got yet.",
            0.0
            if found.outbox_oldest_at is None
            else max(0.0, (self._now - found.outbox_oldest_at).total_seconds()),
        )
        states = GaugeMetricFamily("kommo_connections", "Connections by state.", labels=["state"])
        for state, number in sorted(found.connections.items()):
            states.add_metric([state], number)
        yield states
        if found.completeness:
            yield _gauge(
                "kommo_webhook_completeness_min",
                "Share of changes that had come by webhook, of the org where it is lowest.",
                min(found.completeness),
            )
            yield _gauge(
                "kommo_webhook_completeness_mean",
                "The same, as the mean over all orgs.",
                sum(found.completeness) / len(found.completeness),
            )


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
