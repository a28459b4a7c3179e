"""Where this installation's database is. Importing Prefect takes longer than a look into the database: only if need be.

Facts: where Prefect looks for its settings, and in which order [Prefect 3.8 to 3.9, prefect/settings/sources.py].
"""

import logging
import os
import sys
import tomllib
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from blocks.settings import Settings
from store.database import Database

if TYPE_CHECKING:
    from blocks.database import KommoDatabase

DEFAULT_NAME = "default"


async def find_database(settings: Settings | None = None) -> AbstractAsyncContextManager[Database]:
    """The database of this installation, to be opened by `async with`.

    The first that is there wins: `KOMMO_DATABASE_URL`; the `KommoDatabase` block called `default`, looked up only
    where a Prefect server is configured (an embedded one would have to be started to ask it); the SQLite file in
    the user's data folder. The command line and the flows ask here, so that they never disagree.
    """
    settings = settings or Settings()
    if settings.database_url is not None:
        return Database.open(settings.database_url.get_secret_value(), schema=settings.database_schema)
    if "prefect" in sys.modules or a_server_may_be_configured():
        found = await _database_of_block(settings)
        if found is not None:
            return found
    return Database.open(settings.embedded_database_url, schema=settings.database_schema)


async def _database_of_block(settings: Settings) -> AbstractAsyncContextManager[Database] | None:
    from prefect.settings import PREFECT_API_URL  # noqa: PLC0415 - see the module's docstring

    if not PREFECT_API_URL.value():
        return None
    from blocks.database import KommoDatabase  # noqa: PLC0415 - it is Prefect's

    try:
        block = cast("KommoDatabase", await KommoDatabase.aload(DEFAULT_NAME))
    except ValueError:
        logging.getLogger(__name__).debug("no KommoDatabase block named %r", DEFAULT_NAME)
        return None
    return block.get_database(settings)


def a_server_may_be_configured() -> bool:
    """Whether Prefect may have been told of a server. No is certain; yes only means that Prefect has to be asked."""
    if any(name.upper().startswith(("PREFECT_API", "PREFECT_PROFILE")) for name in os.environ):
        return True
    home = os.environ.get("PREFECT_HOME")
    profiles = (Path(home) if home else Path.home() / ".prefect") / "profiles.toml"
    try:
        return (
            "PREFECT_" in _text(Path(".env")).upper()
            or Path("prefect.toml").exists()
            or _tells(_text(Path("pyproject.toml")))
            or "PREFECT_API" in _text(profiles).upper()
        )
    except OSError:  # Prefect will say better what it could not read
        return True


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _tells(project: str) -> bool:
    """Whether a project file has something to say about Prefect's API or its profiles, or cannot be understood."""
    try:
        tool = tomllib.loads(project).get("tool", {})
    except tomllib.TOMLDecodeError:
        return True
    return not {"api", "profiles_path"}.isdisjoint(tool.get("prefect", {}))
