"""Another encryption key for Prefect's blocks, for which Prefect itself has no tool: straight in its database.

Prefect encrypts each block with Fernet, by PREFECT_SERVER_ENCRYPTION_KEY or else by a key that lies in the same
database. All blocks are written anew in one transaction, or none; what the new key opens already is left as it is.
"""

import json
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken
from prefect.server.database import provide_database_interface
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings
from sqlalchemy import delete, select

from tasks.errors import DataPlaneError

_KEY = "ENCRYPTION_KEY"


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
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: database_url}):
        db = provide_database_interface()
        async with db.session_context(begin_transaction=True, with_for_update=True) as session:
            kept = (
                await session.execute(select(db.Configuration).where(db.Configuration.key == _KEY))
            ).scalar_one_or_none()
            if old_key is None and kept is None:
                raise ReencryptError(
                    "There is no key in Prefect's database: its blocks are encrypted with one from the server's "
                    "environment. Give that one as KOMMO_OLD_ENCRYPTION_KEY."
                )
            old = _fernet(old_key or str(kept.value["fernet_key"] if kept else ""), "old")
            written = already = 0
            for block in (await session.execute(select(db.BlockDocument).with_for_update())).scalars():
                token = str(block.data).encode()
                if _opens(new, token):
                    already += 1
                    continue
                if not _opens(old, token):
                    raise ReencryptError(
                        f"The block {block.name!r} opens with neither key. Nothing was changed; find the key that it "
                        "was written with."
                    )
                block.data = new.encrypt(old.decrypt(token)).decode()
                written += 1
            # It would open a copy of the database from before, and nothing else.
            if kept is not None:
                await session.execute(delete(db.Configuration).where(db.Configuration.key == _KEY))
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
