"""`kommo setup`: a newcomer's walk through everything, which can be repeated."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deployments.cli.asking import ask
from deployments.cli.output import cell, out, say
from deployments.cli.run import WrongUseError, many_imports

if TYPE_CHECKING:
    from blocks.app import KommoApp
    from blocks.settings import Settings
    from deployments.setup import Done, Wishes

_ID = re.compile(r"[0-9A-Za-z_-]{2,40}")  # a UUID; the secret key beside it on the page is longer
_SECRET = re.compile(r"[\x21-\x7e]{1,500}")


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
    wishes = steps.Wishes(client_id=client_id, app_url=app_url, redirect_uri=redirect_uri)
    if wrong := _wrong_address(app_url):
        raise WrongUseError(f"--app-url {app_url!r:.100}: {wrong}")
    async with await find_database(settings) as database:
        # Asked before anything is done: whoever stops at a question has changed nothing.
        if PREFECT_API_URL.value() and not yes:
            wishes = _ask(wishes, await steps.known_app(), settings)
        _tell("Database", await steps.migrate(database))
        if not PREFECT_API_URL.value():
            say(
                "Prefect: no server is configured, so that what follows has no place. Start one "
                "(prefect server start), export PREFECT_API_URL=http://127.0.0.1:4200/api, and run kommo setup again."
            )
            sys.exit(1)
        _tell("Block types", await steps.register_blocks())
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


def _ask(wishes: Wishes, known: KommoApp | None, settings: Settings) -> Wishes:
    from pydantic import SecretStr

    from deployments.setup import Wishes as Said

    client_id = wishes.client_id or ask(
        "Integration ID", before=settings.client_id or (known.client_id if known else ""), check=_wrong_id
    )
    has = settings.client_secret.get_secret_value() or (known and known.client_secret.get_secret_value())
    secret = ask(
        f"Secret key of the integration{' (empty: as it is)' if has else ''}",
        hidden=True,
        check=_wrong_secret,
    )
    app_url = wishes.app_url or ask(
        "Public address of the product, https://…",
        before=settings.app_url or (known.app_url if known else ""),
        check=_wrong_address,
    )
    return Said(
        client_id=client_id,
        client_secret=SecretStr(secret),
        app_url=app_url,
        redirect_uri=wishes.redirect_uri,
    )


def _wrong_id(answer: str) -> str | None:
    if answer and not _ID.fullmatch(answer):
        return "That is no ID: it is a UUID, such as 01234567-89ab-cdef-0123-456789abcdef, from «Keys and scopes»."
    return None


def _wrong_secret(answer: str) -> str | None:
    # What was typed is not repeated.
    if answer and not _SECRET.fullmatch(answer):
        return "That is no secret key: it is one word of letters and digits. Copy it once more."
    return None


def _wrong_address(answer: str) -> str | None:
    if not answer:
        return None
    with contextlib.suppress(ValueError):
        parts = urlsplit(answer)
        host = parts.hostname or ""
        here = host in {"127.0.0.1", "::1", "localhost"} or host.endswith(".localhost")
        plain = not (parts.query or parts.fragment or "@" in parts.netloc)
        written = answer.isprintable() and " " not in answer
        if host and plain and written and (parts.scheme == "https" or (here and parts.scheme == "http")):
            return None
    return "That is no public address: it begins with https:// and has a host, and nothing after a ? or #."
