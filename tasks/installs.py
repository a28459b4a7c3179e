"""What Kommo's own servers tell us: that an integration was installed by its widget, or removed from an account.

Neither call proves much. The install brings a code and no state, so nobody here asked for it; the removal is signed,
but the same address is good for ever [D K/oauth-20]. So an install only brings back what was connected before, and a
removal is believed only after Kommo has refused the token.
"""

import logging

from pydantic import SecretStr

from blocks.app import KommoApp
from blocks.settings import Settings
from kommo.clock import Clock, SystemClock
from kommo.errors import KommoError
from kommo.hosts import Host
from store.connections import ConnectionRecord, ConnectionState, find_connections
from store.database import Database
from store.outbox import add_events
from tasks.authorize import Ending, ending_of
from tasks.connect import connect_with_code
from tasks.disconnect import confirm_uninstall
from tasks.errors import DataPlaneError, WrongAccountError
from tasks.outbox import integration_error

UNKNOWN_INSTALL = "widget_install_unknown_account"
_WORKING = frozenset({ConnectionState.CONNECTED, ConnectionState.REFRESHING, ConnectionState.DEGRADED})

_log = logging.getLogger(__name__)


async def reconnect_installed(
    host: Host,
    code: SecretStr,
    *,
    database: Database,
    app: KommoApp,
    settings: Settings,
    clock: Clock | None = None,
) -> ConnectionRecord | None:
    """Connect an org again whose account has installed the widget again.

    One code makes one pair, and a pair serves one org. Where several share the account, the one that needs it gets it.

    Args:
        host: The account's host, checked.
        code: The authorization code.
        database: An open database.
        app: The integration.
        settings: This installation.
        clock: Source of time.

    Returns:
        The connection; None where no org is known on that account, and then the code is not used.

    Raises:
        KommoError: Kommo refused the code, or could not be reached.
        WrongAccountError: The host answers for another account than before.
    """
    clock = clock or SystemClock()
    known = await find_connections(database, host=host.name)
    if not known:
        _log.warning(
            "integration_error: %s: the widget was installed in an account that no org is connected to; "
            "somebody must connect it from the product.",
            UNKNOWN_INSTALL,
        )
        return None
    org = min(known, key=lambda record: (record.state in _WORKING, record.org)).org
    try:
        return await connect_with_code(org, host, code, settings, database=database, app=app, clock=clock)
    except (KommoError, WrongAccountError) as error:
        ending = ending_of(error) if isinstance(error, KommoError) else Ending.WRONG_ACCOUNT
        event = integration_error(org, ending.value, f"An install by the widget was not taken. {error}")
        async with database.begin() as connection:
            await add_events(connection, [event], clock.now())
        raise


async def check_uninstalled(
    account_id: int, settings: Settings, *, database: Database, clock: Clock | None = None
) -> list[str]:
    """Look, org by org, whether an account has really removed the integration.

    Args:
        account_id: Kommo's id of the account.
        settings: This installation.
        database: An open database.
        clock: Source of time.

    Returns:
        The orgs that are disconnected now. One that cannot be asked stays as it is; its next use will tell.
    """
    gone: list[str] = []
    for record in await find_connections(database, account_id=account_id):
        if record.state == ConnectionState.DISCONNECTED:
            continue
        try:
            if await confirm_uninstall(record.org, settings, database=database, clock=clock):
                gone.append(record.org)
        except (KommoError, DataPlaneError) as error:
            _log.warning("whether %s is still connected could not be found out: %s", record.org, error)
    return gone
