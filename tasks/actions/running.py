"""The tasks of the action flows: one that performs an action, one that settles what was left behind."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task
from pydantic import BaseModel, Field

from store.action_lookups import due_actions, open_counts
from store.actions import ActionRecord, ActionState
from store.errors import StoreError
from tasks.actions.perform import perform, work_on
from tasks.actions.session import ActionSession, all_of
from tasks.actions.wishes import AnyWish
from tasks.errors import ActionFailedError

_AT_ONCE = 200
"""Actions of one look; there are more looks while there are more actions."""
_LONGEST = 600.0
"""Seconds after which a run ends though more is due: the next one goes on."""


class ActionAnswer(BaseModel):
    """How an action stands, as a flow's result. Holds nothing of what was written."""

    action_id: str
    org: str
    kind: str
    idempotency_key: str
    state: ActionState
    result: dict[str, Any] | None = None
    reason: str | None = None
    reason_code: str | None = None
    attempts: int = 0
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, record: ActionRecord) -> "ActionAnswer":
        """A record without its request."""
        return cls(**{name: getattr(record, name) for name in cls.model_fields})


class SettleReport(BaseModel):
    """What one run of settling came to."""

    taken: int = Field(default=0, description="Actions that were taken up.")
    orgs: int = 0
    left: dict[str, int] = Field(default_factory=dict, description="State → how many actions are open yet.")
    seconds: float = 0.0

    def summary(self) -> str:
        """One line for a log and the terminal."""
        left = ", ".join(f"{number} {state}" for state, number in sorted(self.left.items())) or "none"
        return (
            f"{self.taken} actions of {self.orgs} orgs taken up in {self.seconds:.1f} s; still open: {left}"
        )


async def settle_due(
    session: ActionSession, *, orgs: Sequence[str] | None = None, concurrency: int = 8
) -> SettleReport:
    """Take up what nobody works on (any more), org by org, until nothing is due.

    Args:
        session: What to work with.
        orgs: Only these.
        concurrency: How many orgs at a time.

    Raises:
        StoreError: the database does not answer.
    """
    clock, begun = session.clock, session.clock.monotonic()
    seen: Counter[int] = Counter()
    touched: set[str] = set()
    free = asyncio.Semaphore(concurrency)

    async def work(org: str, ids: Sequence[int]) -> None:
        async with free:
            await work_on(session, org, ids)

    while clock.monotonic() - begun < _LONGEST:
        due = await due_actions(session.database, _AT_ONCE, orgs=orgs, clock=session.seconds)
        # One that is due again at once has been handed back: it waits for the next run.
        fresh = [(org, number) for org, number in due if not seen[number]]
        if not fresh:
            break
        by_org: dict[str, list[int]] = {}
        for org, number in fresh:
            by_org.setdefault(org, []).append(number)
            seen[number] += 1
        touched |= by_org.keys()
        await all_of(*(work(org, ids) for org, ids in by_org.items()))
    return SettleReport(
        taken=len(seen),
        orgs=len(touched),
        left=await open_counts(session.database),
        seconds=round(clock.monotonic() - begun, 3),
    )


async def _worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Only an outage of our own database: all else is retried inside, or is an answer."""
    return isinstance(await state.aresult(raise_on_failure=False), StoreError)


@task(
    name="perform-action",
    description="Have one action performed; the same key again gives the same action.",
    retries=2,
    retry_delay_seconds=2,
    retry_condition_fn=_worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def perform_action(
    session: ActionSession, org: str, wish: AnyWish, idempotency_key: str
) -> ActionAnswer:
    """Perform an action, see `perform`.

    Raises:
        ActionFailedError: it was not done, or nobody can say whether it was.
    """
    record = await perform(session, org, wish, idempotency_key)
    if record.state in {ActionState.FAILED, ActionState.UNKNOWN}:
        raise ActionFailedError(record)
    return ActionAnswer.of(record)


@task(
    name="settle-due-actions",
    description="Take up the actions that were left behind: send what was never sent, look up what may have been done.",
    retries=1,
    retry_delay_seconds=5,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def settle_due_actions(session: ActionSession, orgs: Sequence[str] | None = None) -> SettleReport:
    """Settle what is due, see `settle_due`."""
    return await settle_due(session, orgs=orgs)
