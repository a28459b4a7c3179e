"""`kommo connect`: prove a token or a consent, then keep it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from deployments.cli.asking import ask
from deployments.cli.output import cell, err, out, print_json, say
from deployments.cli.run import WrongUseError, many_imports

if TYPE_CHECKING:
    from blocks.settings import Settings
    from store.connections import ConnectionRecord

_STANDARD_INPUT = "-"


async def connect(
    org: str,
    *,
    domain: str | None = None,
    token: Annotated[
        str | None, Parameter(env_var="KOMMO_TOKEN", show_env_var=True, allow_leading_hyphen=True)
    ] = None,
    browser: bool = False,
    code: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    replace: bool = False,
    json: bool = False,
) -> None:
    """Connect an org to its Kommo account: with a long-lived token, or by Kommo's consent page.

    Whatever it is, it is tried against Kommo before it is used, and kept only in a Prefect block and, sealed, in the
    journal of tokens.

    Args:
        org: Your tenant's id: lower-case letters, digits, dashes.
        domain: The account's host, for example acme.kommo.com. The consent page knows it by itself.
        token: The long-lived token from the integration's "Keys and scopes" page; "-" reads it from standard input.
            Better in KOMMO_TOKEN than on the command line, where other users of the machine can see it.
        browser: Open Kommo's consent page and wait for the answer; the integration must send people back to
            this machine.
        code: An authorization code, copied from the address that Kommo sent the browser to; "-" reads it from standard
            input. It is good for 20 minutes, once.
        replace: Allow the org to move to another Kommo account than the one it was connected to.
        json: Print the connection as JSON.
    """
    from pydantic import SecretStr

    from blocks.names import block_name
    from blocks.settings import Settings

    try:
        block_name(org)
    except ValueError as error:
        raise WrongUseError(str(error)) from None
    if browser and code is not None:
        raise WrongUseError("--browser and --code exclude each other.")
    if domain is None and not browser:
        raise WrongUseError("--domain is missing: the account's host, for example acme.kommo.com.")
    settings = Settings()
    if browser or code is not None:
        connection = await _by_consent(org, domain, code, settings, replace=replace)
    else:
        secret = SecretStr(_token(token))
        with many_imports():
            from tasks.connect import connect_with_token
        connection = await connect_with_token(org, domain or "", secret, settings, replace=replace)
    warn_about_encryption()
    await _warn_about_rights(connection, settings)
    if json:
        print_json(connection)
        return
    out.print(
        f"[green]Connected[/] {cell(org)} to {cell(connection.account_name)} "
        f"({cell(connection.host)}, account {cell(connection.account_id)})."
    )
    say(f"Next: kommo sync {org}")


def warn_about_encryption() -> None:
    """Say on standard error if Prefect's vault is not as safe as it looks."""
    from tasks.keys import encryption_warning

    if warning := encryption_warning():
        err.print(f"[yellow]note:[/] {warning}")


async def _warn_about_rights(connection: ConnectionRecord, settings: Settings) -> None:
    from tasks.installation import open_database
    from tasks.rights import rights_warning

    async with open_database(settings) as database:
        if warning := await rights_warning(database, connection, settings):
            err.print(f"[yellow]note:[/] {warning}")


async def _by_consent(
    org: str, domain: str | None, code: str | None, settings: Settings, *, replace: bool
) -> ConnectionRecord:
    from pydantic import SecretStr

    from deployments.cli.consent import Consent, ask_for_consent
    from kommo.hosts import parse_host
    from tasks.installation import open_database

    with many_imports():
        from tasks.app import require_app
        from tasks.connect import connect_with_code
    app = await require_app(settings)
    if code is None:
        consent = await ask_for_consent(app.oauth(), allow_loopback=app.allow_loopback)
    else:
        plain = (sys.stdin.readline() if code == _STANDARD_INPUT else code).strip()
        consent = Consent(parse_host(domain or "", allow_loopback=app.allow_loopback), SecretStr(plain))
    async with open_database(settings) as database:
        return await connect_with_code(
            org, consent.host, consent.code, settings, database=database, app=app, replace=replace
        )


def _token(token: str | None) -> str:
    if token == _STANDARD_INPUT:
        token = sys.stdin.readline()
    elif token is None and sys.stdin.isatty():
        token = ask("Long-lived token", hidden=True)
    token = (token or "").strip()
    os.environ.pop("KOMMO_TOKEN", None)  # what this process starts later need not inherit it
    if not token:
        raise WrongUseError(
            "No token was given: set KOMMO_TOKEN, or pass --token, or --token - and pipe it in."
        )
    return token
