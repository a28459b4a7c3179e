"""How each group is read from Kommo."""

from collections.abc import Awaitable, Callable, Mapping

from kommo.catalogue import CATALOGUE
from kommo.client import KommoClient
from kommo.errors import ErrorKind, KommoError
from kommo.models import Account, Talk, parse_many
from store.errors import NoSnapshotError
from store.snapshots import read_snapshot
from tasks.errors import WrongAccountError
from tasks.items import (
    Raw,
    Rows,
    account_rows,
    channel_rows,
    field_rows,
    loss_reason_rows,
    pipeline_rows,
    user_rows,
)
from tasks.scopes import Group
from tasks.session import SyncSession

# Newest first; an account may have hundreds of thousands of talks, and they only tell which channels are in use.
_PAGES_OF_TALKS = 4


async def read_account_raw(client: KommoClient) -> Raw:
    """The account as Kommo gave it: the cheapest check of a token, open to every user [D K/account]."""
    resource = CATALOGUE["account"]
    try:
        answer = await client.get(resource.path, resource.params())
    except KommoError as error:
        raise error.as_no_account() from None
    if not isinstance(answer.data, dict):
        raise KommoError(ErrorKind.MALFORMED, detail="the account is not an object")
    return answer.data


async def read_account(client: KommoClient) -> Account:
    """The account as a typed value."""
    return parse_many(Account, [await read_account_raw(client)], "account")[0]


async def _account(session: SyncSession) -> Rows:
    raw = await read_account_raw(session.client)
    rows = account_rows(raw)
    expected, found = session.connection.account_id, rows["account"][0].columns["account_id"]
    if expected not in {None, found}:
        raise WrongAccountError(
            f"{session.connection.host} now answers for account {found}, but '{session.org}' was connected to account "
            f"{expected}. Nothing was saved; connect the org again if it has really moved."
        )
    return rows


async def _pipelines(session: SyncSession) -> Rows:
    return pipeline_rows(await session.client.read_all(CATALOGUE["pipelines"]))


async def _channels(session: SyncSession) -> Rows:
    sources = await session.client.read_all(CATALOGUE["sources"])
    listed = await session.client.read_all(CATALOGUE["channels"])
    origins, all_read = await _talk_origins(session.client)
    if not all_read:
        # Only a complete reading may conclude that something is gone (S1): a quiet channel is not a removed one.
        origins |= await _known_origins(session)
    return channel_rows(session.connection.account_id, sources=sources, listed=listed, origins=origins)


async def _talk_origins(client: KommoClient) -> tuple[set[str], bool]:
    """The distinct origins of the newest talks, and whether those were all talks."""
    origins: set[str] = set()
    pages = 0
    async for page in client.iterate(CATALOGUE["talks"]):
        origins |= {talk.origin for talk in parse_many(Talk, page, "talks") if talk.origin}
        pages += 1
        if pages == _PAGES_OF_TALKS:
            return origins, len(page) < CATALOGUE["talks"].page_size
    return origins, True


async def _known_origins(session: SyncSession) -> set[str]:
    try:
        known = await read_snapshot(session.database, session.org, "channels")
    except NoSnapshotError:
        return set()
    return {item["origin"] for item in known.items if item["found_in"] == "talks"}


def _fields(entity: str) -> Callable[[SyncSession], Awaitable[Rows]]:
    async def read(session: SyncSession) -> Rows:
        return field_rows(entity, await session.client.read_all(CATALOGUE[f"{entity}_custom_fields"]))

    return read


async def _users(session: SyncSession) -> Rows:
    return user_rows(await session.client.read_all(CATALOGUE["users"]))


async def _loss_reasons(session: SyncSession) -> Rows:
    return loss_reason_rows(await session.client.read_all(CATALOGUE["loss_reasons"]))


_READERS: Mapping[Group, Callable[[SyncSession], Awaitable[Rows]]] = {
    Group.ACCOUNT: _account,
    Group.PIPELINES: _pipelines,
    Group.CHANNELS: _channels,
    Group.LEAD_FIELDS: _fields("lead"),
    Group.CONTACT_FIELDS: _fields("contact"),
    Group.COMPANY_FIELDS: _fields("company"),
    Group.USERS: _users,
    Group.LOSS_REASONS: _loss_reasons,
}


async def read_group(session: SyncSession, group: Group) -> Rows:
    """Read everything of one group, to its end.

    Raises:
        KommoError: Kommo did not give it.
        WrongAccountError: the host answers for another account.
    """
    return await _READERS[group](session)
