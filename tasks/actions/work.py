"""Bringing actions of one org to their end: send what was never sent, look up what may have been done (R3).

An action is marked as sent before its request goes out, and the mark is good for a while only: a process that was held
up for longer does not send any more, because somebody else may have taken the action over.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kommo.client import KommoClient
from kommo.errors import ErrorKind, KommoError
from store.action_journal import NEVER, HeldAction
from store.action_lookups import made_already
from store.actions import ActionState
from store.connections import ConnectionRecord
from store.errors import StoreError
from tasks.actions import outcomes
from tasks.actions.holding import Holder
from tasks.actions.items import Done, Item
from tasks.actions.lookups import look_up
from tasks.actions.plans import Call
from tasks.actions.requests import blamed_for, find_talk, requests_for, send
from tasks.actions.session import ActionSession, all_of
from tasks.backlog_trouble import note_trouble
from tasks.errors import (
    AccountChangedError,
    DataPlaneError,
    NotConnectedError,
    ReauthorizationRequiredError,
    place_of,
    sentence_of,
)
from tasks.session import find_connection

_SHORTEST_PAUSE = 0.05
_LONGEST_REST = 30.0
_OLDEST_UNKNOWN = 2 * 86_400.0
"""Seconds after which an unknown action is not looked up again."""
_LOOK_SHORTLY = 3_600.0
_MAY_BE_ONE_OF_MANY = frozenset(
    {ErrorKind.VALIDATION, ErrorKind.FORBIDDEN, ErrorKind.NOT_FOUND, ErrorKind.LIMIT}
)
"""Refusals of a whole request for which one of its elements may be to blame."""

_log = logging.getLogger(__name__)


class _TooLateError(Exception):
    """The mark is too old to be sent on: somebody else may have taken the action over."""


class Worker(Holder):
    """Works on actions of one org that belong to it.

    Args:
        session: What to work with.
        org: The product's tenant.
        owner: Whose the actions are.
        actions: The actions, as they were taken.
    """

    def __init__(self, session: ActionSession, org: str, owner: str, actions: Sequence[HeldAction]) -> None:
        super().__init__(session, org, owner, actions)
        self._serial: int | None = None

    async def work(self) -> None:
        """Work until all are at their end, or the time for it is over; what is left is handed back."""
        session = self._session
        until = session.clock.monotonic() + session.options.work_within
        try:
            while self._open and session.clock.monotonic() < until:
                try:
                    await self._with_client(until)
                except StoreError as error:
                    # What was marked as sent is looked up afterwards, whatever the database has kept of it.
                    _log.warning("Actions of %s wait for the database: %s", self._org, error)
                    await session.clock.sleep(session.options.poll)
        except Exception as error:  # noqa: BLE001 - whatever it was, the action goes on with somebody
            # Not its text: it may hold what was to be written.
            _log.error(
                "An action of %s failed and is taken up again: %s at %s",
                *(self._org, type(error).__name__, place_of(error)),
            )
            for one in self._open.values():
                one.waits = ("failed", sentence_of(error))
        finally:
            if self._open:
                await asyncio.shield(self._hand_back())

    async def _with_client(self, until: float) -> None:
        session = self._session
        try:
            connection = at_first = await find_connection(session.database, self._org)
            self._serial = connection.token_serial
            await self._leave_other_accounts(connection)
            async with session.clients.use(connection) as client:
                while (
                    self._open
                    and session.clock.monotonic() < until
                    and (connection.host, connection.account_id) == (at_first.host, at_first.account_id)
                ):
                    await self._keep()
                    await self._step(client)
                    await self._pause()
                    if self._open:  # it has waited: the org may have been disconnected, or moved, meanwhile
                        connection = await find_connection(session.database, self._org)
        except (NotConnectedError, ReauthorizationRequiredError) as error:
            await self._give_up(list(self._open.values()), error)
        except (DataPlaneError, KommoError) as error:  # the client could not be made: its token, or Prefect
            self._rest(list(self._open.values()), error)
            await self._pause()

    async def _leave_other_accounts(self, connection: ConnectionRecord) -> None:
        """What was asked for in another account is neither sent nor looked up in this one: ids mean nothing here."""
        here = {None, connection.account_id}
        others = [
            one for one in self._open.values() if connection.account_id and one.plan.account not in here
        ]
        if others:
            await self._give_up(others, AccountChangedError())

    async def _step(self, client: KommoClient) -> None:
        now = self._session.clock.monotonic()
        ready = [one for one in self._open.values() if one.not_before <= now]
        for one in ready:
            if one.state is ActionState.UNKNOWN:  # it counts as under way while it is looked up
                await self._marked([one], sends=False)
        await self._settle(client, [one for one in ready if one.state is ActionState.SENT])
        intended = [one for one in ready if one.id in self._open and one.state is ActionState.INTENDED]
        await self._send_all(client, await self._prepared(client, intended))

    async def _prepared(self, client: KommoClient, items: Sequence[Item]) -> list[Item]:
        """Those that can be sent: not too old, not too often tried, and a message has its conversation."""
        fit: list[Item] = []
        for one in items:
            if self._age(one) > self._session.options.give_up_after:
                sentence = f"It could not be sent in time. The last reason: {one.waits[1]}"
                await self._conclude([outcomes.failed(one.held, one.plan, ("gave_up", sentence))])
            elif (
                one.plan.call is not Call.MESSAGE
                or one.plan.talk_id is not None
                or await self._has_talk(client, one)
            ):
                fit.append(one)
        return fit

    async def _has_talk(self, client: KommoClient, one: Item) -> bool:
        try:
            talk = await find_talk(client, one.plan)
        except (KommoError, DataPlaneError) as error:
            await self._not_done([one], error, marked=False)
            return False
        if talk is None:
            code, sentence = outcomes.NO_TALK
            channel = "" if one.plan.origins is None else " in this channel"
            await self._conclude(
                [outcomes.failed(one.held, one.plan, (code, sentence.format(channel=channel)))]
            )
            return False
        one.plan = replace(one.plan, talk_id=talk[0], origin=talk[1])
        return True

    async def _send_all(self, client: KommoClient, items: Sequence[Item]) -> None:
        await all_of(*(self._send(client, request) for request in requests_for(items)))

    async def _send(self, client: KommoClient, request: Sequence[Item]) -> None:
        clock = self._session.clock
        # Before the mark: who is held up while the database answers is held up as well. By both clocks: one stands
        # still while the machine sleeps, the other can be set back.
        begun, since = clock.monotonic(), clock.now()
        marked = await self._marked(request)
        if not marked:
            return

        async def gate() -> None:
            held_up = max(clock.monotonic() - begun, (clock.now() - since).total_seconds())
            if held_up > self._session.options.send_within:
                raise _TooLateError

        try:
            done = await send(client, marked, gate)
        except _TooLateError:
            await self._take_back(marked)
        except KommoError as error:
            await self._refused(marked, error)
        except (DataPlaneError, StoreError) as error:
            # Raised before the request or, by a refused token, after an answer that says that nothing was done.
            await self._not_done(marked, error, marked=True)
        else:
            self._answered(marked)
            for one in marked:
                one.done = done.get(one.id)
            await self._confirm(done)

    def _answered(self, items: Sequence[Item], *, refused: bool = False) -> None:
        for one in items:
            one.ended = self._session.clock.monotonic()
            one.answered = refused

    async def _refused(self, request: Sequence[Item], error: KommoError) -> None:
        """There was no success: what that says about each of the actions."""
        if error.outcome_unknown:
            self._answered(request)  # looked up in the next step
            for one in request:  # "big batches: shrink and repeat" [D K/limitations]
                one.most = max(1, len(request) // 2)
        elif error.kind in _MAY_BE_ONE_OF_MANY and len(request) > 1:
            await self._partly_refused(request, error)
        else:
            await self._not_done(request, error, marked=True)

    async def _partly_refused(self, request: Sequence[Item], error: KommoError) -> None:
        """One element is at fault and the whole request was refused; that it was, is inferred only [I §2.3]."""
        blamed = blamed_for(request, error)
        await self._conclude(
            [outcomes.failed(one.held, one.plan, outcomes.reason_of(one.plan, error)) for one in blamed]
        )
        others = [one for one in request if one not in blamed]
        self._answered(others, refused=True)
        for one in others:
            one.most = one.most if blamed else 1

    async def _not_done(self, items: Sequence[Item], error: Exception, *, marked: bool) -> None:
        """Nothing was done: try again a little later, or never."""
        if outcomes.is_temporary(error):
            self._rest(items, error)
            if marked:
                await self._take_back(items)
            return
        if isinstance(error, KommoError) and error.final and error.kind is not ErrorKind.PAYMENT_REQUIRED:
            self._session.clients.forget(self._org)
            if error.kind is not ErrorKind.FORBIDDEN:  # one function may be forbidden, and all others work
                await note_trouble(
                    self._session.database, self._org, error, self._session.clock, serial=self._serial
                )
        await self._conclude(
            [outcomes.failed(one.held, one.plan, outcomes.reason_of(one.plan, error)) for one in items]
        )

    def _rest(self, items: Sequence[Item], error: Exception) -> None:
        now, asked = self._session.clock.monotonic(), getattr(error, "retry_after", None)
        for one in items:
            seconds = min(_LONGEST_REST, max(asked or 0.0, 0.25 * 2.0 ** min(one.tries, 10)))
            one.rest(now, seconds, outcomes.waits_for(error))

    async def _settle(self, client: KommoClient, items: Sequence[Item]) -> None:
        if not items:
            return
        # What Kommo has answered is known already: only our database did not take it.
        known = {one.id: one.done for one in items if one.done is not None}
        await self._confirm(known)
        items = [one for one in items if one.id not in known]
        looked_up = await look_up(client, items)
        names = [name for found in looked_up.values() for _, name in found.fitting if name is not None]
        names += [name for found in looked_up.values() for name in found.alike]
        taken = await made_already(self._session.database, self._org, names) if names else set()
        confirmed: dict[int, Done] = {}
        for one in items:
            found = looked_up[one.id]
            free = [done for done in found.fitting if done[1] is None or done[1] not in taken]
            if free:
                result, made = free[0]
                confirmed[one.id] = ({**result, "settled": "by looking it up"}, made)
            elif found.error is not None or not taken.issuperset(found.alike):
                await self._not_looked_up(one, found.error)
            else:
                await self._absent(one)
        await self._confirm(confirmed)

    async def _not_looked_up(self, one: Item, error: KommoError | None) -> None:
        """It cannot be looked up, or, without an error, what was found may be the one and may be not."""
        session = self._session
        if (error and error.kind in outcomes.NO_LOOK) or self._age(one) > session.options.give_up_after:
            session.clients.forget(self._org)
            reason = outcomes.lookup_reason(error)
            await self._conclude([outcomes.unknown(one.held, one.plan, reason, self._due_in(one))])
        elif error:
            self._rest([one], error)
        else:
            one.rest(session.clock.monotonic(), 2 * session.options.poll, outcomes.ALIKE)

    async def _absent(self, one: Item) -> None:
        """It is not there. It counts as not done once Kommo must have been through with it."""
        session = self._session
        options, clock, age = session.options, session.clock, self._age(one)
        left = options.until_absent(one, clock)
        if left > 0:
            one.rest(clock.monotonic(), min(left, options.poll), outcomes.LOOKED_UP)
        elif age > options.give_up_after or one.attempts >= options.most_sends:
            sentence = (
                f"Kommo did not carry it out: sent {one.attempts} times, it never answered and has nothing."
            )
            await self._conclude([outcomes.failed(one.held, one.plan, ("not_done", sentence))])
        else:
            one.state = ActionState.INTENDED  # in the row it stays `sent` until it is marked anew

    async def _give_up(self, items: Sequence[Item], error: Exception) -> None:
        """Nothing can be sent or looked up: what was never sent has failed, of the rest nobody can tell."""
        await self._conclude(
            [
                outcomes.failed(one.held, one.plan, outcomes.reason_of(one.plan, error))
                if one.state is ActionState.INTENDED
                else outcomes.unknown(
                    one.held, one.plan, outcomes.reason_of(one.plan, error), self._due_in(one)
                )
                for one in items
            ]
        )

    def _age(self, one: Item) -> float:
        return (self._session.clock.now() - one.held.record.created_at).total_seconds()

    def _due_in(self, one: Item) -> float:
        """Seconds until an unknown action is looked up again: ever more rarely, and not for ever."""
        age = self._age(one)
        return min(_LOOK_SHORTLY, self._session.options.look_again + age) if age < _OLDEST_UNKNOWN else NEVER

    async def _confirm(self, done: Mapping[int, Done]) -> None:
        await self._conclude(
            [
                outcomes.confirmed(self._open[number].held, self._open[number].plan, result, made)
                for number, (result, made) in done.items()
            ]
        )

    async def _pause(self) -> None:
        if not self._open:
            return
        clock = self._session.clock
        soonest = min(one.not_before for one in self._open.values()) - clock.monotonic()
        await clock.sleep(min(max(soonest, _SHORTEST_PAUSE), self._session.options.poll))
