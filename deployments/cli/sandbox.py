"""`kommo sandbox`: the stand-in for Kommo as a server of its own."""

import sys
from typing import Literal


def sandbox(
    *,
    port: int = 8025,
    accounts: int = 2,
    leads: int = 200,
    contacts: int = 200,
    companies: int = 50,
    fields: int = 0,
    talks: int = 40,
    limit: int = 7,
    seed: int = 1,
    redirect_uri: str = "http://127.0.0.1:8020/api/v1/crm/kommo/callback",
    client_id: str = "",
    client_secret: str = "",
    disable_hook: str = "",
    refresh: Literal["grace", "dead"] = "grace",
    json: bool = False,
) -> None:
    """Run a stand-in for Kommo on loopback until it is interrupted.

    It prints, for each account, the host and tokens to connect with, and the settings with which the other commands
    use it: KOMMO_SANDBOX=1, as loopback hosts are refused otherwise, and for the consent page the integration and
    KOMMO_AUTHORIZE_BASE.

    Args:
        port: Port to listen on; 0 takes a free one.
        accounts: How many accounts to serve; thousands are no trouble, those beyond the first 16 are tiny.
        leads: Leads in each account.
        contacts: Contacts in each account.
        companies: Companies in each account.
        fields: Extra custom fields per entity, beside one of each type.
        talks: Talks in each account.
        limit: Requests a second, per account and per IP; 0 is no limit.
        seed: The same seed gives the same data.
        redirect_uri: Where the consent page sends people back to: the gateway's callback; for `kommo connect --browser`
            an address of this machine, as http://127.0.0.1:8030/connected.
        client_id: Integration id; made from the seed if left out.
        client_secret: Secret key of the integration; made from the seed if left out.
        disable_hook: URL told of an uninstall.
        refresh: What happens to a used refresh token: "grace" until the new pair is used, or "dead" at once.
        json: Print the ready line as JSON.
    """
    from sandbox.__main__ import main

    options = {
        "port": port,
        "accounts": accounts,
        "leads": leads,
        "contacts": contacts,
        "companies": companies,
        "fields": fields,
        "talks": talks,
        "limit": limit,
        "seed": seed,
        "redirect-uri": redirect_uri,
        "client-id": client_id,
        "client-secret": client_secret,
        "disable-hook": disable_hook,
        "refresh": refresh,
    }
    argv = [f"--{name}={value}" for name, value in options.items()]
    sys.exit(main([*argv, "--json"] if json else argv))
