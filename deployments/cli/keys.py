"""`kommo keys api`: the keys with which the product comes to the gateway."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from deployments.cli.output import cell, out, print_json, say, table
from deployments.cli.run import WrongUseError


async def create(
    name: str,
    *,
    org: Annotated[Sequence[str], Parameter(negative="")] = (),
    all_orgs: bool = False,
    json: bool = False,
) -> None:
    """Make a key for the product. It is shown once, and kept nowhere.

    Args:
        name: What it is for, for people.
        org: An org that the key may act for; may be given several times.
        all_orgs: The key may act for every org, also for those that come later.
        json: Print it as JSON.
    """
    from blocks.settings import Settings
    from tasks.api_keys import make_api_key
    from tasks.installation import open_database

    if bool(org) == all_orgs:
        raise WrongUseError(
            "Say for which orgs the key is: --org ORG, several times if need be, or --all-orgs."
        )
    async with open_database(Settings()) as database:
        try:
            key, secret = await make_api_key(database, name, None if all_orgs else list(org))
        except ValueError as error:
            raise WrongUseError(str(error)) from None
    if json:
        print_json(
            {"key_id": key.key_id, "name": key.name, "orgs": key.orgs, "key": secret.get_secret_value()}
        )
        return
    out.print(f"[green]Made[/] {cell(key.key_id)} ({cell(key.name)}) for {_orgs(key.orgs)}.")
    say(secret.get_secret_value())
    say("This is the only time that it is shown: put it where the product keeps its secrets.")


async def show(*, json: bool = False) -> None:
    """Show the keys that there are, the revoked ones too; never the keys themselves.

    Args:
        json: Print them as JSON.
    """
    from blocks.settings import Settings
    from store.api_keys import list_keys
    from tasks.installation import open_database

    async with open_database(Settings()) as database:
        keys = await list_keys(database)
    if json:
        print_json(keys)
        return
    if not keys:
        say("There are no keys yet: kommo keys api create NAME --org ORG")
        return
    table(
        ["key", "name", "orgs", "made", "last used", "revoked"],
        [
            (
                cell(key.key_id),
                cell(key.name),
                _orgs(key.orgs),
                cell(key.created_at),
                cell(key.last_used_at),
                cell(key.revoked_at),
            )
            for key in keys
        ],
    )


async def revoke(key_id: str) -> None:
    """End a key, at once and for good.

    Args:
        key_id: The key as `kommo keys api list` names it.
    """
    from datetime import UTC, datetime

    from blocks.settings import Settings
    from store.api_keys import revoke_key
    from tasks.installation import open_database

    async with open_database(Settings()) as database:
        if not await revoke_key(database, key_id, now=datetime.now(tz=UTC)):
            raise WrongUseError("There is no such key, or it was revoked before: kommo keys api list")
    say(f"{key_id} is revoked.")


def _orgs(orgs: Sequence[str] | None) -> str:
    return "every org" if orgs is None else cell(", ".join(orgs))
