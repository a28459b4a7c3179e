"""Another encryption key for Prefect's blocks, for which Prefect itself has no tool: straight in its database.

Prefect encrypts each block with Fernet, by PREFECT_SERVER_ENCRYPTION_KEY or else by a key that lies in the same
database. All blocks are written anew in one transaction, or none; what the new key opens already is left as it is.
"""

import json
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken
from prefect.server.utilities.database import JSON, UUID
from sqlalchemy import Text, column, delete, select, table, update
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from tasks.errors import DataPlaneError

_KEY = "ENCRYPTION_KEY"
# Of Prefect's tables what is needed here; its own models can only be had for the one database that a process is set to.
_BLOCK = table("block_document", column("id", UUID()), column("name", Text()), column("data", JSON()))
_SETTING = table("configuration", column("key", Text()), column("value", JSON()))


class ReencryptError(DataPlaneError):
    """The blocks cannot be written with the new key; nothing was changed."""


@dataclass(frozen=True)
class Reencrypted:
    """What was done. `already`: blocks that the new key opened before; `removed_key`: one in the database is gone."""

    written: int
    already: int
    removed_key: bool


async def reencrypt_blocks(database_url: str, old_key: str | None, new_key: str) -> Reencrypted:
    """Write all blocks of a Prefect server anew; the server must be stopped meanwhile.

    Args:
        database_url: of Prefect's database, as the server has it.
        old_key: what the blocks are encrypted with; None: by the key that lies in the database.
        new_key: what they are to be encrypted with: a Fernet key.

    Raises:
        ReencryptError: a key is none, or a block opens with neither; nothing was changed.
    """
    new = _fernet(new_key, "new")
    engine = create_async_engine(database_url)
    try:
        async with engine.begin() as connection:
            return await _reencrypt(connection, old_key, new)
    finally:
        await engine.dispose()


async def _reencrypt(connection: AsyncConnection, old_key: str | None, new: Fernet) -> Reencrypted:
    kept = (await connection.execute(select(_SETTING.c.value).where(_SETTING.c.key == _KEY))).scalar()
    if old_key is None and kept is None:
        raise ReencryptError(
            "There is no key in Prefect's database: its blocks are encrypted with one from the server's environment. "
            "Give that one as KOMMO_OLD_ENCRYPTION_KEY."
        )
    old = _fernet(old_key or (str(kept["fernet_key"]) if kept else ""), "old")
    written = already = 0
    blocks = await connection.execute(select(_BLOCK.c.id, _BLOCK.c.name, _BLOCK.c.data).with_for_update())
    for number, name, data in blocks.all():
        token = str(data).encode()
        if _opens(new, token):
            already += 1
        elif _opens(old, token):
            fresh = new.encrypt(old.decrypt(token)).decode()
            await connection.execute(update(_BLOCK).where(_BLOCK.c.id == number).values(data=fresh))
            written += 1
        else:
            raise ReencryptError(
                f"The block {name!r} opens with neither key. Nothing was changed; find the key it was written with."
            )
    if kept is not None:  # it would open a copy of the database from before, and nothing else
        await connection.execute(delete(_SETTING).where(_SETTING.c.key == _KEY))
    return Reencrypted(written, already, kept is not None)


def _opens(fernet: Fernet, token: bytes) -> bool:
    try:
        json.loads(fernet.decrypt(token))
    except InvalidToken:
        return False
    return True


def _fernet(key: str, which: str) -> Fernet:
    try:
        return Fernet(key.encode())
    except ValueError:
        raise ReencryptError(
            f"The {which} key is not a Fernet key (32 bytes in URL-safe base64). Nothing was changed."
        ) from None
