"""The actions that belong to one worker, and what the journal says of them: marked, taken back, concluded, kept."""

import contextlib
from collections.abc import Sequence

from store.action_journal import HeldAction, Outcome, conclude, mark_sent
from store.action_leases import hand_back, keep_actions, take_back
from store.action_lookups import set_later
from store.actions import ActionState
from store.errors import StoreError, WriteRefusedError
from tasks.actions import outcomes
from tasks.actions.items import Item
from tasks.actions.session import ActionSession

TWIN_PAUSE = 0.2
_DUE_AGAIN = 1.0


class Holder:
    """Holds actions of one org, and writes down what becomes of them; what it has lost it does not touch any more.

    Args:
        session: What to work with.
        org: The product's tenant.
        owner: Whose the actions are.
        actions: The actions, as they were taken.
    """

    def __init__(self, session: ActionSession, org: str, owner: str, actions: Sequence[HeldAction]) -> None:
        self._session = session
        self._org = org
        self._owner = owner
        self._open = {held.id: Item.of(held) for held in actions}
        self._kept_at = session.clock.monotonic()

    async def _marked(self, request: Sequence[Item], *, sends: bool = True) -> list[Item]:
        session, now = self._session, self._session.clock.now()
        plans = {one.id: (one.plan.to_json(), one.plan.twin) for one in request}
        try:
            ids = await mark_sent(
                session.database,
                plans,
                self._owner,
                session.options.lease,
                sends=sends,
                now=now,
                clock=session.seconds,
            )
        except WriteRefusedError:
            ids = set()  # a twin was faster at this very moment
        marked = [one for one in request if one.id in ids]
        for one in marked:
            one.state = ActionState.SENT
            one.attempts += sends
            one.waits = outcomes.LOOKED_UP
            one.answered = False
            if sends:  # what is known of an earlier request says nothing about this one
                one.sent_at, one.ended, one.done = now, None, None
        left = [one for one in request if one.id not in ids]
        if left:
            await self._not_marked(left, sends=sends)
        return marked

    async def _not_marked(self, items: Sequence[Item], *, sends: bool) -> None:
        """Others stand in the way: the same field was set later, or a twin is under way."""
        # One that is only to be looked up may have been done before the later one, so it has not failed.
        later = await set_later(self._session.database, [one.id for one in items]) if sends else set()
        await self._conclude(
            [outcomes.failed(one.held, one.plan, outcomes.SUPERSEDED) for one in items if one.id in later]
        )
        now = self._session.clock.monotonic()
        for one in items:
            if one.id not in later:
                one.rest(now, TWIN_PAUSE, outcomes.TWIN)

    async def _take_back(self, items: Sequence[Item]) -> None:
        """They were marked as sent, and were not carried out."""
        session = self._session
        for one in items:
            one.state = ActionState.INTENDED
            one.attempts -= 1
        code, sentence = items[0].waits
        await take_back(
            session.database,
            [one.id for one in items],
            self._owner,
            reason=sentence,
            reason_code=code,
            now=session.clock.now(),
        )

    async def _conclude(self, made: Sequence[Outcome]) -> None:
        """Write outcomes down. What was made and belongs to another action is looked up once more."""
        if not made:
            return
        session = self._session
        try:
            await conclude(
                session.database, made, self._owner, now=session.clock.now(), clock=session.seconds
            )
        except WriteRefusedError:
            if len(made) == 1:
                one = self._open[made[0].id]
                one.done = None
                one.rest(session.clock.monotonic(), TWIN_PAUSE, outcomes.LOOKED_UP)
                return
            for outcome in made:
                await self._conclude([outcome])
            return
        for outcome in made:
            self._open.pop(outcome.id, None)

    async def _keep(self) -> None:
        """Let the leases last, well before they end; what was lost is not ours any more."""
        session = self._session
        now = session.clock.monotonic()
        if now - self._kept_at < session.options.lease / 4:
            return
        self._kept_at = now
        kept = await keep_actions(
            session.database, list(self._open), self._owner, session.options.lease, clock=session.seconds
        )
        for number in [number for number in self._open if number not in kept]:
            del self._open[number]

    async def _hand_back(self) -> None:
        session = self._session
        by_reason: dict[tuple[str, str], list[int]] = {}
        for one in self._open.values():
            by_reason.setdefault(one.waits, []).append(one.id)
        with contextlib.suppress(StoreError):  # then the leases end by themselves
            for (code, sentence), ids in by_reason.items():
                await hand_back(
                    session.database,
                    ids,
                    self._owner,
                    due_in=_DUE_AGAIN,
                    reason=sentence,
                    reason_code=code,
                    now=session.clock.now(),
                    clock=session.seconds,
                )
