"""`kommo setup`: a newcomer's walk through everything, which can be repeated."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from deployments.cli.output import cell, out, say
from deployments.cli.run import WrongUseError, many_imports

if TYPE_CHECKING:
    from blocks.app import KommoApp
    from deployments.setup import Done, Wishes


async def setup(
    *,
    client_id: str = "",
    app_url: str = "",
    redirect_uri: str = "",
    deployments: bool = True,
    yes: bool = False,
) -> None:
    """Set everything up: tables, blocks, the integration, a key for the product, deployments; then look at it all.

    Each step is done wholly or not at all, and what is done already is left alone: after an interruption it is run
    again. The secret key of the integration is asked for without showing it; with --yes it comes from
    KOMMO_CLIENT_SECRET.

    Args:
        client_id: The integration's ID, from its page «Keys and scopes»; or KOMMO_CLIENT_ID.
        app_url: The product's public address; or APP_URL.
        redirect_uri: Where Kommo sends people back, if not below the product's address.
        deployments: Make the work pool and all deployments.
        yes: Ask nothing: take what the options and the environment say.
    """
    if not yes and not sys.stdin.isatty():
        raise WrongUseError(
            "Nobody can be asked here: say --yes, with the options or KOMMO_… in the environment."
        )
    with many_imports():
        from prefect.settings import PREFECT_API_URL

        from blocks.place import find_database
        from blocks.settings import Settings
        from deployments import setup as steps

    settings = Settings()
    async with await find_database(settings) as database:
        _tell("Database", await steps.migrate(database))
        if not PREFECT_API_URL.value():
            say(
                "Prefect: no server is configured, so that what follows has no place. Start one "
                "(prefect server start), export PREFECT_API_URL=http://127.0.0.1:4200/api, and run kommo setup again."
            )
            sys.exit(1)
        _tell("Block types", await steps.register_blocks())
        known = await steps.known_app()
        wishes = steps.Wishes(client_id=client_id, app_url=app_url, redirect_uri=redirect_uri)
        if not yes:
            wishes = _ask(wishes, known)
        _tell("Integration", await steps.save_app(wishes, settings))
        made = await steps.ensure_key(database)
        _tell("Key", made)
        if made.secret is not None:
            say(made.secret.get_secret_value())
            say("This is the only time that it is shown: put it where the product keeps its secrets.")
    if deployments:
        _tell("Deployments", await steps.deploy_all())
    say(
        "Next: prefect worker start --pool kommo (or kommo serve), kommo gateway, and connect an org: kommo connect."
    )
    say("What is still wrong, with what to type:")
    from deployments.cli.doctor import doctor

    await doctor()


def _tell(what: str, done: Done) -> None:
    mark = "[green]✓[/]" if done.changed else "[dim]·[/]"
    out.print(f"{mark} {what}: {cell(done.sentence)}")


def _ask(wishes: Wishes, known: KommoApp | None) -> Wishes:
    from pydantic import SecretStr
    from rich.prompt import Prompt

    from deployments.setup import Wishes as Said

    def asked(text: str, given: str, before: str) -> str:
        return given or Prompt.ask(text, console=out, default=before, show_default=bool(before))

    client_id = asked("Integration ID", wishes.client_id, known.client_id if known else "")
    has = known is not None and known.client_secret.get_secret_value()
    secret = Prompt.ask(
        f"Secret key of the integration{' (empty: as it is)' if has else ''}",
        console=out,
        password=True,
        default="",
    )
    app_url = asked(
        "Public address of the product (https://…)", wishes.app_url, known.app_url if known else ""
    )
    return Said(
        client_id=client_id,
        client_secret=SecretStr(secret),
        app_url=app_url,
        redirect_uri=wishes.redirect_uri,
    )
