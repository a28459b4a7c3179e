"""Sends webhooks when data change: on time, again after bad answers, never again when too many were bad.

A change is only noted where it happens; bodies are made and sent by a task of their own, so that writing through the
API does not become slower. Moments are those of the sandbox's clock; only the two seconds that an answer may take are
real ones.
"""

import asyncio
import contextlib
import heapq
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random

from sandbox.config import WebhookSettings
from sandbox.state import Account, Change, Record
from sandbox.webhooks_body import Item, body_of
from sandbox.webhooks_client import Client
from sandbox.webhooks_items import items_of
from sandbox.webhooks_log import Attempt, Delivery, DeliveryLog, entities_of
from sandbox.webhooks_rules import BadAnswers, is_good, next_attempt

_SLICE = 50  # changes that become bodies before others have their turn
_STEP = (
    2.0  # seconds of the clock within which deliveries that are due go out together when time is put forward
)
_GLANCE = 0.2  # real seconds after which the clock is looked at again: somebody may have moved it
_Named = tuple[str, Item]
_Told = tuple[str, Item, int]  # and when it happened


class Webhooks:
    """The queue of one sandbox and what empties it.

    Args:
        settings: How webhooks are sent.
        clock: The sandbox's clock.
        move_clock: Sets it.
        seed: Of the dice that decide about duplicates, loss and order.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        clock: Callable[[], float],
        move_clock: Callable[[float], None],
        seed: int,
    ) -> None:
        self.settings = settings
        self.log = DeliveryLog()
        self._clock = clock
        self._move_clock = move_clock
        self._dice = Random(f"webhooks:{seed}")  # noqa: S311 - chances in a test double
        self._fresh: deque[Change] = deque()
        self._heap: list[Delivery] = []
        self._bad: dict[tuple[int, int], BadAnswers] = {}
        self._client = Client()
        self._flying: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awake = asyncio.Event()

    def configure(self, **values: object) -> None:
        """Change settings.

        Args:
            values: Keys of `WebhookSettings`.

        Raises:
            TypeError: There is no such setting.
        """
        self.settings = replace(self.settings, **values)  # type: ignore[arg-type]  # as it says above
        self.wake()

    def hear(self, change: Change) -> None:
        """Note a change; cheap, and safe from any thread."""
        if len(change.account.webhooks):
            self._fresh.append(change)
            self.wake()

    def wake(self) -> None:
        """Look at the queue now."""
        if self._loop is not None and not self._awake.is_set():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody sends any more
                self._loop.call_soon_threadsafe(self._awake.set)

    async def run(self) -> None:
        """Send until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                self._awake.clear()
                self.prepare(_SLICE)
                self._begin()
                if self._fresh:
                    await asyncio.sleep(0)
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._awake.wait(), _GLANCE if self._heap else None)
        finally:
            self._loop = None
            for task in list(self._flying):
                task.cancel()
            await asyncio.gather(*self._flying, return_exceptions=True)
            await self._client.close()

    def prepare(self, most: int | None = None) -> None:
        """Make bodies of what has changed.

        Args:
            most: Of so many changes at most; None = of all.
        """
        parcels: dict[tuple[int, int], tuple[Account, Record, list[_Told]]] = {}
        for _ in range(len(self._fresh) if most is None else min(most, len(self._fresh))):
            change = self._fresh.popleft()
            items = self._items(change)
            for hook in change.account.webhooks:
                wanted = [(name, item, change.moment) for name, item in items if self._wants(hook, name)]
                if wanted:
                    key = (change.account.id, hook["id"])
                    parcels.setdefault(key, (change.account, hook, []))[2].extend(wanted)
        for account, hook, told in parcels.values():
            while told:
                size = self._dice.randint(1, self.settings.bundle) if self.settings.bundle > 1 else 1
                named = [(name, item) for name, item, _ in told[:size]]
                self._make(account, hook, named, float(told[:size][-1][2]))
                del told[:size]

    def _items(self, change: Change) -> list[_Named]:
        try:
            return list(items_of(change, odd_notes=self.settings.odd_notes))
        except Exception:  # noqa: BLE001 - a bug of the sandbox must be seen, and must not end the sending of all others
            traceback.print_exc()
            return []

    def _wants(self, hook: Record, name: str) -> bool:
        return name in hook["settings"] or (name == "lists" and self.settings.lists)

    def _make(self, account: Account, hook: Record, named: list[_Named], moment: float) -> None:
        settings, dice, target = self.settings, self._dice, (hook["id"], hook["destination"])
        body = body_of(account, [item for _, item in named], settings)
        delivery = self._add(account, target, body, named, moment)
        if hook["disabled"]:
            self._lose(delivery, "the hook is disabled")
        elif settings.loss and dice.random() < settings.loss:
            self._lose(delivery, "never sent")
        else:
            heapq.heappush(self._heap, delivery)
            if settings.duplicates and dice.random() < settings.duplicates:
                copy = self._add(account, target, body, named, moment)
                copy.copy_of = delivery.number
                if not settings.fresh_request_ids:
                    copy.request_id = delivery.request_id
                heapq.heappush(self._heap, copy)

    def _add(
        self,
        account: Account,
        target: tuple[int | None, str],
        body: bytes,
        named: Iterable[_Named],
        moment: float,
    ) -> Delivery:
        settings, named = self.settings, list(named)
        late = settings.delay + (self._dice.uniform(0, settings.shuffle) if settings.shuffle else 0.0)
        delivery = Delivery(
            number=len(self.log.deliveries) + 1,
            account=account,
            hook_id=target[0],
            destination=target[1],
            names=tuple(name for name, _ in named),
            entities=entities_of(item for _, item in named),
            body=body,
            request_id=self._new_id(),
            made=moment,
            due=self._clock() + late,
        )
        self.log.deliveries.append(delivery)
        return delivery

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._dice.getrandbits(128), version=4))

    def send(self, account: Account, destination: str, body: bytes, name: str, *, repeats: bool) -> Delivery:
        """Send a body that no subscription asked for: a stage's automation, or something odd put together by hand.

        Args:
            account: Whose.
            destination: Where to.
            body: The bytes.
            name: What it is, for the log.
            repeats: Whether it is tried again after a bad answer.
        """
        delivery = self._add(account, (None, destination), body, [], self._clock())
        delivery.names, delivery.repeats = (name,), repeats
        heapq.heappush(self._heap, delivery)
        self.wake()
        return delivery

    def _begin(self) -> None:
        """Start the requests that are due."""
        now = self._clock()
        while (
            self._heap
            and self._heap[0].due <= now
            and not self.settings.paused
            and len(self._flying) < self.settings.concurrency
        ):
            delivery = heapq.heappop(self._heap)
            delivery.state = "sending"
            task = asyncio.get_running_loop().create_task(self._attempt(delivery))
            self._flying.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        self._awake.set()

    async def _attempt(self, delivery: Delivery) -> None:
        hook = delivery.account.webhooks.get(delivery.hook_id) if delivery.hook_id is not None else None
        if delivery.hook_id is not None and (hook is None or hook["disabled"]):
            self._lose(delivery, "the hook is gone" if hook is None else "the hook is disabled")
            return
        settings, moment, started = self.settings, self._clock(), time.perf_counter()
        if delivery.attempts and settings.fresh_request_ids:
            delivery.request_id = self._new_id()
        headers = {
            "accept-encoding": "gzip",
            "x-amocrm-requestid": delivery.request_id,
            "content-type": "application/x-www-form-urlencoded",
            "content-length": str(len(delivery.body)),
            "user-agent": settings.agent,
        }
        url = self._routed(delivery.destination)
        status, reason = await self._client.post(url, headers, delivery.body, settings.seconds)
        delivery.attempts.append(Attempt(moment, status, time.perf_counter() - started, reason))
        if is_good(status):
            delivery.state = "delivered"
            self._forget_body(delivery)
            return
        if hook is not None and delivery.hook_id is not None:
            self._count_bad(delivery.account, delivery.hook_id)
        self._again(delivery, status)

    def _again(self, delivery: Delivery, status: int) -> None:
        hook = delivery.account.webhooks.get(delivery.hook_id) if delivery.hook_id is not None else None
        wait = next_attempt(len(delivery.attempts), status) if delivery.repeats else None
        if hook is not None and hook["disabled"]:
            self._lose(delivery, "the hook is disabled")
        elif wait is None:
            self._lose(delivery, "tried as often as the rules say")
        else:
            delivery.state, delivery.due = "waiting", self._clock() + wait
            heapq.heappush(self._heap, delivery)

    def _routed(self, destination: str) -> str:
        """The destination, or the place on loopback that stands in for its origin."""
        for origin, place in self.settings.routes.items():
            if destination.startswith(origin):
                return place + destination.removeprefix(origin)
        return destination

    def _lose(self, delivery: Delivery, reason: str) -> None:
        delivery.state, delivery.reason = "lost", reason
        self._forget_body(delivery)

    def _forget_body(self, delivery: Delivery) -> None:
        if not self.settings.keep_bodies:
            delivery.body = b""

    def _count_bad(self, account: Account, hook_id: int) -> None:
        """Disable the hook when it answers badly too often; what still waits for it is lost [D, the waiting I]."""
        if not self._bad.setdefault((account.id, hook_id), BadAnswers()).add(self._clock()):
            return
        if hook_id in account.webhooks:
            account.webhooks.change(hook_id, disabled=True)
        kept = []
        for delivery in self._heap:
            if (delivery.account.id, delivery.hook_id) == (account.id, hook_id):
                self._lose(delivery, "the hook is disabled")
            else:
                kept.append(delivery)
        heapq.heapify(kept)
        self._heap = kept

    def bad_answers(self, account: Account, hook_id: int) -> int:
        """How many answers of a hook were bad in the last two hours."""
        known = self._bad.get((account.id, hook_id))
        return known.count(self._clock()) if known else 0

    def forgive(self, account: Account, hook_id: int) -> None:
        """Forget the bad answers of a hook that was switched on again."""
        self._bad.pop((account.id, hook_id), None)

    def is_settled(self) -> bool:
        """Whether nothing is under way and nothing due."""
        due = bool(self._heap) and self._heap[0].due <= self._clock() and not self.settings.paused
        return not (self._fresh or self._flying or due)

    def is_idle(self) -> bool:
        """Whether nothing is under way and nothing waits, due or not."""
        return not (self._fresh or self._flying or self._heap)

    async def settle(self, seconds: float) -> bool:
        """Wait until nothing is under way and nothing due.

        Args:
            seconds: At most so many real seconds.

        Returns:
            Whether that was enough.
        """
        end = time.monotonic() + seconds
        while not self.is_settled():
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(0.005)
        return True

    async def advance(self, seconds: float) -> None:
        """Put the clock forward as if time had passed: each repetition happens at its own moment.

        Args:
            seconds: By so many.
        """
        end = self._clock() + seconds
        await self.settle(60)
        while self._heap and self._heap[0].due <= end and not self.settings.paused:
            self._move_clock(max(self._clock(), min(end, self._heap[0].due + _STEP)))
            await self.settle(60)
        self._move_clock(max(self._clock(), end))
        await self.settle(60)
