"""`kommo connect`: prove a token, then keep it in a Prefect block."""

import os
import sys
from typing import Annotated

from cyclopts import Parameter

from deployments.cli.output import cell, out, print_json, say
from deployments.cli.run import WrongUseError

_STANDARD_INPUT = "-"


async def connect(
    org: str,
    *,
    domain: str,
    token: Annotated[str | None, Parameter(env_var="KOMMO_TOKEN", show_env_var=True)] = None,
    replace: bool = False,
    json: bool = False,
) -> None:
    """Connect an org to its Kommo account with a long-lived token.

    The token is tried against Kommo before it is saved, and saved only in a Prefect block.

    Args:
        org: Your tenant's id: lower-case letters, digits, dashes.
        domain: The account's host, for example acme.kommo.com.
        token: The long-lived token from the integration's "Keys and scopes" page; "-" reads it from standard input.
            Better in KOMMO_TOKEN than on the command line, where other users of the machine can see it.
        replace: Allow the org to move to another Kommo account than the one it was connected to.
        json: Print the connection as JSON.
    """
    from pydantic import SecretStr

    from blocks.connection import block_name
    from blocks.settings import Settings
    from tasks.connect import connect_with_token

    try:
        block_name(org)
    except ValueError as error:
        raise WrongUseError(str(error)) from None
    secret = _token(token)
    connection = await connect_with_token(org, domain, SecretStr(secret), Settings(), replace=replace)
    if json:
        print_json(connection)
        return
    out.print(
        f"[green]Connected[/] {cell(org)} to {cell(connection.account_name)} "
        f"({cell(connection.host)}, account {cell(connection.account_id)})."
    )
    say(f"Next: kommo sync {org}")


def _token(token: str | None) -> str:
    if token == _STANDARD_INPUT:
        token = sys.stdin.readline()
    elif token is None and sys.stdin.isatty():
        from getpass import getpass

        token = getpass("Long-lived token: ")
    token = (token or "").strip()
    os.environ.pop("KOMMO_TOKEN", None)  # what this process starts later need not inherit it
    if not token:
        raise WrongUseError(
            "No token was given: set KOMMO_TOKEN, or pass --token, or --token - and pipe it in."
        )
    return token
