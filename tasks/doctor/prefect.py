"""Prefect: is the API there, does it know us, is its server set up as a service should be.

Facts: `/admin/settings` tells the server's settings with secrets obscured, `/admin/version` its version; the encryption
key is read from the environment by the server and told nowhere [Prefect 3.9, server/utilities/encryption.py].
"""

import asyncio
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import prefect
from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

from blocks.collection import KommoApp, KommoConnection, KommoDatabase
from tasks.doctor.checks import Check, Finding, SkippedError, fault, ok, warning
from tasks.doctor.surroundings import Surroundings
from tasks.keys import encryption_warning

LOOPBACK = ("localhost", "127.0.0.1", "::1")
GROUP = "Prefect"
_BLOCKS: tuple[type[Block], ...] = (KommoApp, KommoConnection, KommoDatabase)
_REGISTER = "prefect block register -m blocks.collection"


async def _api(around: Surroundings) -> list[Finding]:
    if not around.api:
        return warning(
            "No Prefect server is configured: a small one is started for each command. That is for trying out.",
            "prefect server start, and in each shell: export PREFECT_API_URL=http://127.0.0.1:4200/api",
        )
    where = urlsplit(around.api).netloc.rpartition("@")[2]
    answer = await around.prefect_answer()
    if answer.error is None:
        return ok(f"Prefect's API at {where} answers.")
    status = getattr(getattr(answer.error, "response", None), "status_code", None)
    if status in {401, 403}:
        return fault(
            f"Prefect's API at {where} answers {status}: it does not take our user and password.",
            "export PREFECT_API_AUTH_STRING=user:password, as the server has it in PREFECT_SERVER_API_AUTH_STRING",
        )
    if status is not None or isinstance(answer.error, ValueError | TypeError):
        return fault(
            f"What answers at {where} is not Prefect's API{f' (HTTP {status})' if status else ''}.",
            "export PREFECT_API_URL=http://HOST:4200/api (the address ends in /api)",
        )
    return fault(
        f"Prefect's API at {where} does not answer.",
        "prefect server start (or set PREFECT_API_URL to where it is)",
    )


async def _version(around: Surroundings) -> list[Finding]:
    server = str((await (await around.prefect()).request("GET", "/admin/version")).json())
    ours = prefect.__version__
    if _number(server) < _number(ours):
        return fault(
            f"Prefect's server is {server}, older than this program's {ours}: what it does not know is lost.",
            f"pip install 'prefect=={ours}' where the server runs, then restart it",
        )
    return ok(f"The server is {server}, this program has {ours}.")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


async def _exposed(around: Surroundings) -> list[Finding]:
    settings = await around.server_settings()
    host = urlsplit(around.api).hostname or ""
    listens = settings["server"]["api"]["host"]
    if settings["server"]["api"]["auth_string"]:
        return ok("The API wants a password.")
    if host in LOOPBACK and listens in LOOPBACK:
        return ok("The API has no password, and listens on this machine only.")
    return fault(
        "Prefect's API can be reached from other machines and has no password: whoever reaches it reads all tokens.",
        "PREFECT_SERVER_API_AUTH_STRING=user:password for the server, PREFECT_API_AUTH_STRING for everybody else",
    )


async def _telemetry(around: Surroundings) -> list[Finding]:
    if (await around.server_settings())["server"]["analytics_enabled"]:
        return warning(
            "Prefect's server sends usage data to its makers.",
            "PREFECT_SERVER_ANALYTICS_ENABLED=false for the server, then restart it",
        )
    return ok("The server sends no usage data.")


async def _encryption(around: Surroundings) -> list[Finding]:
    if not around.api:
        told = encryption_warning()
        return warning(told, _MAKE_KEY) if told else ok("The encryption key is in the environment.")
    await around.prefect()
    if await asyncio.to_thread(_keeps_its_key, around):
        return warning(
            "Prefect's server keeps the key of its secrets in the clear beside them: a copy of its database opens all.",
            f"{_MAKE_KEY}, for the server and before the first secret is saved; then connect the orgs again",
        )
    return ok(
        "Prefect does not tell whether its server has PREFECT_SERVER_ENCRYPTION_KEY: see to it that it has, "
        "and that it is kept apart from the database's backup."
    )


_MAKE_KEY = (
    "export PREFECT_SERVER_ENCRYPTION_KEY=$(python -c "
    "'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())')"
)


def _prefect_file(around: Surroundings) -> Path | None:
    """The SQLite file of a server on this machine, as far as our own environment tells."""
    if (urlsplit(around.api).hostname or "") not in LOOPBACK:
        return None
    url = PREFECT_SERVER_DATABASE_CONNECTION_URL.value()
    text = url.get_secret_value() if hasattr(url, "get_secret_value") else str(url or "")
    if not text:
        home = os.environ.get("PREFECT_HOME")
        file = (Path(home) if home else Path.home() / ".prefect") / "prefect.db"
    elif text.startswith("sqlite"):
        file = Path(text.partition(":///")[2].partition("?")[0])
    else:
        return None
    return file if file.is_file() else None


def _keeps_its_key(around: Surroundings) -> bool:
    file = _prefect_file(around)
    if file is None:
        return False
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=1)) as connection:
            return bool(
                connection.execute("select 1 from configuration where key = 'ENCRYPTION_KEY'").fetchone()
            )
    except sqlite3.Error:
        return False


async def _server_database(around: Surroundings) -> list[Finding]:
    said = (await around.server_settings())["server"]["database"]
    driver = said.get("driver") or ""
    unknown = bool(said.get("connection_url")) and not driver
    on_sqlite = "sqlite" in driver or not (driver or unknown)
    if not on_sqlite and not (unknown and _prefect_file(around)):
        return ok("The server's database is not seen to be SQLite.")
    pools = await (await around.prefect()).read_work_pools()
    if not pools:
        return ok("The server is on SQLite; no workers use it.")
    return warning(
        "Prefect's server is on SQLite while work pools exist: one busy flow makes most other requests fail (503).",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL=postgresql+asyncpg://user:password@host/prefect for the server",
    )


async def same_file(around: Surroundings) -> list[Finding]:
    """Whether Prefect and we share one SQLite file."""
    answer = await around.database_answer()
    if answer.error is not None:
        raise SkippedError("The database cannot be asked.")
    ours = answer.value[0].address.file
    theirs = _prefect_file(around) if around.api else None
    if ours is not None and theirs is not None and ours.resolve() == theirs.resolve():
        return fault(
            "Our tables are in the SQLite file of Prefect's server: each would lock the other out.",
            "export KOMMO_DATABASE_URL=sqlite:///another/file.db, then kommo db upgrade",
        )
    return ok("Our tables have a database of their own.")


async def _block_types(around: Surroundings) -> list[Finding]:
    client = await around.prefect()
    missing, old = [], []
    for block in _BLOCKS:
        try:
            known = await client.read_block_type_by_slug(block.get_block_type_slug())
        except ObjectNotFound:
            missing.append(block.get_block_type_name())
            continue
        try:
            schema = await client.read_block_schema_by_checksum(block._calculate_schema_checksum())
        except ObjectNotFound:
            old.append(block.get_block_type_name())
        else:
            if schema.block_type_id != known.id:
                old.append(block.get_block_type_name())
    if missing or old:
        words = [f"{', '.join(missing)} not known"] if missing else []
        words += [f"{', '.join(old)} of an older version"] if old else []
        return fault(f"Prefect's server has not all of our block types: {'; '.join(words)}.", _REGISTER)
    return ok(f"All {len(_BLOCKS)} block types are registered.")


CHECKS = (
    Check("prefect-api", GROUP, "Prefect's API", _api),
    Check("prefect-version", GROUP, "the server's version", _version),
    Check("prefect-password", GROUP, "who may ask Prefect's API", _exposed),
    Check("prefect-telemetry", GROUP, "usage data", _telemetry),
    Check("prefect-encryption", GROUP, "the key of Prefect's secrets", _encryption),
    Check("prefect-database", GROUP, "the database of Prefect's server", _server_database),
    Check("block-types", GROUP, "our block types", _block_types),
)
