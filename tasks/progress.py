"""How far a sync is: an artifact for the Prefect UI, and a listener for whoever waits at a terminal."""

import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.context import FlowRunContext


@dataclass(frozen=True)
class Step:
    """One group is through: `done` of `total`; or one is `under_way`, and this says how far."""

    org: str
    group: str
    done: int
    total: int
    failed: bool
    under_way: str | None = None


_log = logging.getLogger(__name__)

Listener = Callable[[Step], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("sync_progress_listener", default=None)


def listen_to_progress(listener: Listener) -> None:
    """Call `listener` after every group of the syncs started from this context."""
    _LISTENER.set(listener)


def announce_step(org: str, group: str, done: int, total: int, *, failed: bool) -> None:
    """Tell whoever listens that one more is through."""
    if listener := _LISTENER.get():
        listener(Step(org, group, done, total, failed))


def announce_under_way(org: str, group: str, done: int, total: int, how_far: str) -> None:
    """Tell whoever listens how far a group is."""
    if listener := _LISTENER.get():
        listener(Step(org, group, done, total, failed=False, under_way=how_far))


async def try_to_show(showing: Awaitable[object]) -> None:
    """Await what only shows something: work must not fail because Prefect does not take it now."""
    try:
        await showing
    except Exception as error:  # noqa: BLE001 - whatever it is
        _log.warning("not shown in Prefect: %s", type(error).__name__)


class SyncProgress:
    """Counts the groups of one sync and shows the count.

    Args:
        org: the product's tenant.
        total: how many groups there are.
    """

    def __init__(self, org: str, total: int) -> None:
        self._org = org
        self._total = total
        self._done = 0
        self._artifact: UUID | None = None

    async def start(self) -> None:
        """Show 0 %. Outside a flow run there is no artifact to show it in."""
        if FlowRunContext.get() is not None:
            self._artifact = await acreate_progress_artifact(
                0.0, key=f"kommo-progress-{self._org}", description=f"Sync of {self._org}"
            )

    async def step(self, group: str, *, failed: bool) -> None:
        """One group more is through."""
        self._done += 1
        announce_step(self._org, group, self._done, self._total, failed=failed)
        if self._artifact is not None:
            await try_to_show(aupdate_progress_artifact(self._artifact, 100.0 * self._done / self._total))


class FleetProgress:
    """Counts the orgs of a fleet's sync and shows the count."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._artifact: UUID | None = None

    async def start(self, total: int) -> None:
        """Show 0 % of so many."""
        self._total = total
        if total and FlowRunContext.get() is not None:
            self._artifact = await acreate_progress_artifact(
                0.0, key="kommo-progress-all", description=f"Sync of {total} orgs"
            )

    def step(self, org: str, *, failed: bool) -> None:
        """One org more is through."""
        self._done += 1
        self._total = max(self._total, self._done)
        if listener := _LISTENER.get():
            listener(Step("all orgs", org, self._done, self._total, failed))

    async def show(self) -> None:
        """Show how far it is."""
        if self._artifact is not None:
            await try_to_show(aupdate_progress_artifact(self._artifact, 100.0 * self._done / self._total))
