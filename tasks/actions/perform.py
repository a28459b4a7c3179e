"""Have actions performed: journal, send, settle, and answer with how they stand."""

import asyncio
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from store.action_journal import HeldAction, NewAction, add_actions
from store.action_leases import take_actions
from store.action_lookups import find_actions
from store.actions import ActionRecord, ActionState
from tasks.actions import outcomes
from tasks.actions.checking import plan_of
from tasks.actions.plans import Plan
from tasks.actions.session import ActionSession
from tasks.actions.wishes import AnyWish, check_key
from tasks.actions.work import Worker
from tasks.errors import IdempotencyConflictError, InvalidActionError
from tasks.session import find_connection

_FIRST_LOOK = 0.05
_SLOWEST_LOOK = 0.5
Wished = tuple[AnyWish, str]
"""What is asked for, and its idempotency key."""


async def perform(session: ActionSession, org: str, wish: AnyWish, idempotency_key: str) -> ActionRecord:
    """Have one action performed, and wait for its outcome.

    The same key and the same request give the same action, however often and by how many at once it is asked for.

    Returns:
        The action; mostly `confirmed` or `failed`. One that could not be brought to an end within
        `session.options.patience` seconds is `intended` (not sent yet) or `sent` (being looked up), with the reason;
        it is worked on further, by this session and then by `settle-actions`.

    Raises:
        InvalidActionError: it does not fit the org's CRM, or the key is none; nothing was journalled or sent.
        IdempotencyConflictError: the key belongs to another request.
        NotConnectedError: the org has no connection.
        NoSnapshotError: there is nothing to check it against: the org was never synced.
        StoreError: the database does not answer.
    """
    return (await _perform(session, org, [(wish, idempotency_key)], invalid_raises=True))[0]


async def perform_many(session: ActionSession, org: str, wishes: Sequence[Wished]) -> list[ActionRecord]:
    """Have many actions of one org performed, in arrays of at most 50 where Kommo takes them.

    Args:
        session: What to work with.
        org: The product's tenant.
        wishes: What is asked for, each with its idempotency key.

    Returns:
        The actions in the order of the wishes, each with its own outcome. One that does not fit the org's CRM is
        `failed` with the reason code `invalid`, and the others go on.

    Raises:
        InvalidActionError: a key is none; nothing was journalled or sent.
        IdempotencyConflictError: a key belongs to another request, or stands twice here for different ones.
        NotConnectedError: the org has no connection.
        NoSnapshotError: there is nothing to check them against: the org was never synced.
        StoreError: the database does not answer.
    """
    return await _perform(session, org, wishes, invalid_raises=False) if wishes else []


async def work_on(session: ActionSession, org: str, ids: Sequence[int]) -> None:
    """Take over those of the org's actions that belong to nobody, and work on them until they are at their end."""
    owner = session.new_owner()
    taken = await take_actions(session.database, ids, owner, session.options.lease, clock=session.seconds)
    if taken:
        await Worker(session, org, owner, taken).work()


async def _perform(
    session: ActionSession, org: str, wishes: Sequence[Wished], *, invalid_raises: bool
) -> list[ActionRecord]:
    wanted = _by_key(wishes)
    until = session.clock.monotonic() + session.options.patience
    known, work = await _known(session, org, wanted), []
    fresh = [(wish, key) for key, wish in wanted.items() if key not in known]
    if fresh:
        account = (await find_connection(session.database, org)).account_id
        actions = [
            await _planned(session, org, wish, key, account=account, raises=invalid_raises)
            for wish, key in fresh
        ]
        work = [await _begin(session, org, actions)]
    found = await _outcome(session, org, wanted, until, work)
    return [found[key].record for _, key in wishes]


def _by_key(wishes: Sequence[Wished]) -> dict[str, AnyWish]:
    wanted: dict[str, AnyWish] = {}
    for wish, key in wishes:
        check_key(key)
        if key in wanted and wanted[key].digest() != wish.digest():
            raise IdempotencyConflictError(
                f"The idempotency key {key!r} stands twice in this request, for different actions. Nothing was sent."
            )
        wanted[key] = wish
    return wanted


async def _known(session: ActionSession, org: str, wanted: dict[str, AnyWish]) -> dict[str, HeldAction]:
    """What the journal has under these keys.

    Raises:
        IdempotencyConflictError: it is something else.
    """
    known = await find_actions(session.database, org, list(wanted))
    for key, held in known.items():
        if held.digest != wanted[key].digest():
            raise IdempotencyConflictError(
                f"The idempotency key {key!r} belongs to another {held.record.kind} already "
                f"(action {held.record.action_id}). Give each request a key of its own; nothing was sent."
            )
    return known


async def _planned(
    session: ActionSession, org: str, wish: AnyWish, key: str, *, account: int | None, raises: bool
) -> NewAction:
    action_id = uuid.uuid4().hex
    plan: Plan | None = None
    reason = None
    try:
        plan = replace(await plan_of(session.facts, org, wish), account=account)
    except InvalidActionError as error:
        if raises:
            raise
        reason = str(error)
    return NewAction(
        action_id=action_id,
        kind=wish.kind.value,
        idempotency_key=key,
        digest=wish.digest(),
        request=wish.model_dump(mode="json"),
        plan=plan.to_json() if plan else {},
        twin=plan.twin if plan else f"invalid:{action_id}",
        reason=reason,
        reason_code="invalid" if reason else None,
    )


async def _begin(session: ActionSession, org: str, actions: Sequence[NewAction]) -> asyncio.Task[None]:
    """Journal actions, and let those that nobody has journalled before be worked on."""
    owner = session.new_owner()
    told = {
        one.action_id: outcomes.action_event(
            org,
            None,
            {
                "action_id": one.action_id,
                "kind": one.kind,
                "idempotency_key": one.idempotency_key,
                "state": ActionState.FAILED.value,
                "result": None,
                "reason": one.reason,
                "reason_code": one.reason_code,
            },
        )
        for one in actions
        if one.reason is not None
    }
    new = await add_actions(
        session.database,
        org,
        actions,
        owner,
        seconds=session.options.lease,
        events=told,
        now=session.clock.now(),
        clock=session.seconds,
    )
    ours = [held for held in new if not held.record.is_final]
    return session.start(Worker(session, org, owner, ours).work())


async def _outcome(
    session: ActionSession,
    org: str,
    wanted: dict[str, AnyWish],
    until: float,
    work: Sequence[asyncio.Task[None]],
) -> dict[str, HeldAction]:
    """Wait until all are at their end, or patience is; what nobody works on (any more) is taken over."""
    clock, pause = session.clock, 0.0
    under_way = set(work)
    while True:
        if under_way:  # it says by its end that there is something to see
            await _first_of(under_way, clock.sleep(max(0.0, until - clock.monotonic())))
            under_way = {task for task in under_way if not task.done()}
        found = await _known(session, org, wanted)
        left = [held for held in found.values() if held.record.state in _GOES_ON]
        if not left or clock.monotonic() >= until:
            return found
        now = session.seconds()
        free = [held.id for held in left if held.until <= now]
        if not under_way:
            pause = min(max(_FIRST_LOOK, 1.5 * pause), _SLOWEST_LOOK)
            await clock.sleep(pause)
            under_way = {session.start(work_on(session, org, free))} if free else set()


async def _first_of(under_way: set[asyncio.Task[None]], napping: Coroutine[Any, Any, None]) -> None:
    nap = asyncio.ensure_future(napping)
    try:
        await asyncio.wait({nap, *under_way}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        nap.cancel()


_GOES_ON = frozenset({ActionState.INTENDED, ActionState.SENT})
