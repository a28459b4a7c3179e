"""The sync of one org as a plain function: what a fleet's sync does for each of its thousands.

The flow `full-crm-sync` does the same with a task run for each group, for whoever wants to see and retry one org. Here
the groups are read one after the other: side by side they would be no faster under Kommo's limit per account, and each
would make a connection of its own.
"""

from kommo.clock import Clock
from kommo.errors import ErrorKind, KommoError
from store.connections import ConnectionRecord
from store.database import Database
from store.errors import UnknownConnectionError, UnknownRunError
from store.runs import begin_run
from store.snapshots import Saved
from tasks.backlog_clients import Clients
from tasks.conclude import Outcomes, conclude_sync
from tasks.errors import sentence_of
from tasks.reports import SyncReport
from tasks.scopes import GROUPS_OF_SCOPE, Group, Scope
from tasks.session import SyncSession, begun_sync, give_up
from tasks.snapshots import save_group

STOPPED = frozenset({ErrorKind.BUDGET_BLOCKED, ErrorKind.IP_BLOCKED})
"""What nobody behind this address can do anything about for a while."""
_PAUSE = 5.0
"""Seconds before a group is tried again: the client has tried each request several times by then."""


class OrgSync:
    """What became of one org.

    Attributes:
        org: The product's tenant.
        outcome: Its report, or why there is none.
        error: The first thing that went wrong.
    """

    def __init__(self, org: str, outcome: SyncReport | str, error: Exception | None) -> None:
        self.org = org
        self.outcome = outcome
        self.error = error

    @property
    def failed(self) -> bool:
        """Whether anything of it could not be read or saved."""
        return not isinstance(self.outcome, SyncReport) or self.outcome.state == "failed"

    @property
    def is_stop(self) -> bool:
        """Kommo lets nobody through: the next org would fare no better."""
        return isinstance(self.error, KommoError) and self.error.kind in STOPPED

    @property
    def ended(self) -> bool:
        """Whether the org was disconnected or erased meanwhile: nothing of it is written down or told any more."""
        return isinstance(self.error, UnknownConnectionError | UnknownRunError)

    @property
    def passes(self) -> bool:
        """What went wrong says nothing about this org: Kommo is down, or slow."""
        return isinstance(self.error, KommoError) and self.error.retryable


async def sync_org(
    database: Database, clients: Clients, connection: ConnectionRecord, scope: Scope, clock: Clock
) -> OrgSync:
    """Sync one org; whatever goes wrong with it is written down as its run and given back.

    Args:
        database: The store.
        clients: Where its client comes from.
        connection: The org's connection.
        scope: What to read.
        clock: Time, waiting and chance.

    Raises:
        StoreError: The store does not even take what went wrong.
    """
    org, begun = connection.org, False
    try:
        async with (
            clients.use(connection) as client,
            begun_sync(connection, scope, client, database, clock) as session,
        ):
            begun = True
            outcomes = await _read_all(session, scope)
            report = await conclude_sync(session, scope, outcomes)
        errors = [one for one in outcomes.values() if isinstance(one, Exception)]
        return OrgSync(org, report, errors[0] if errors else None)
    except Exception as error:  # noqa: BLE001 - whatever it was, the other orgs go on
        if not begun:
            try:
                run_id = await begin_run(database, org, scope.value, now=clock.now(), connected=True)
            except UnknownConnectionError as gone:
                return OrgSync(org, sentence_of(gone), gone)
            await give_up(database, org, scope, run_id, error, clock=clock)
        return OrgSync(org, sentence_of(error), error)


async def _read_all(session: SyncSession, scope: Scope) -> Outcomes:
    """The account first, which is the cheapest check of the token; one group that fails does not stop the others."""
    outcomes: Outcomes = {}
    for group in (Group.ACCOUNT, *GROUPS_OF_SCOPE[scope]):
        try:
            outcomes[group] = await _patiently(session, group)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other groups go on and the report names it
            outcomes[group] = error
            if group is Group.ACCOUNT or (isinstance(error, KommoError) and error.kind in STOPPED):
                break
    return outcomes


async def _patiently(session: SyncSession, group: Group) -> dict[str, Saved]:
    try:
        return await save_group(session, group)
    except KommoError as error:
        if not error.retryable or error.kind in STOPPED:
            raise
    await session.clock.sleep(_PAUSE * (1 + session.clock.random() / 2))
    return await save_group(session, group)
