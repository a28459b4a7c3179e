"""What the user of a token may not do: told when an account is connected, not by the first sync that fails."""

from blocks.settings import Settings
from kommo.catalogue import CATALOGUE
from kommo.clock import SystemClock
from kommo.errors import ErrorKind, KommoError
from store.connections import ConnectionRecord
from store.database import Database
from tasks.session import open_client

NOT_AN_ADMINISTRATOR = (
    "The user of this token is not an administrator of the Kommo account: users (and later webhooks) can only be read "
    "with an administrator's token. The rest works; connect again with one to have those, too."
)


async def rights_warning(database: Database, connection: ConnectionRecord, settings: Settings) -> str | None:
    """A sentence if the user is no administrator; None if it is one, or if that cannot be told just now."""
    resource = CATALOGUE["users"]
    try:
        async with open_client(database, connection, settings, SystemClock()) as client:
            await client.get(resource.path, [("limit", "1")])
    except KommoError as error:
        return NOT_AN_ADMINISTRATOR if error.kind is ErrorKind.FORBIDDEN else None
    return None
