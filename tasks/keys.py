"""Rotation of the keys that seal the token journal."""

import os
from typing import cast

from prefect.settings import PREFECT_API_URL
from pydantic import BaseModel, SecretStr

from blocks.app import KommoApp
from blocks.settings import Settings
from store.errors import SealBrokenError
from store.sealing import new_key
from store.token_journal import reseal, sealed_rows
from tasks.app import DEFAULT_NAME
from tasks.errors import KeysFromEnvironmentError
from tasks.installation import open_database

_PAGE = 200


class Rotation(BaseModel):
    """What a rotation did."""

    keys: int
    resealed: int = 0
    unreadable: int = 0


async def rotate_keys(settings: Settings, *, drop_old: bool = False) -> Rotation:
    """Seal the whole journal with the first key: a new one, or with `drop_old` the newest there is.

    The block with the new key is saved before anything is sealed with it, and old keys are dropped only after
    everything has been: whenever this is interrupted, every token can still be opened, and running it again finishes.

    Args:
        settings: this installation.
        drop_old: make no new key; keep only the newest once everything is sealed with it.

    Raises:
        KeysFromEnvironmentError: the keys are set by KOMMO_SEALING_KEYS, which only a person can change.
        SealKeyError: a key in the block is malformed, or there is none to go on with.
    """
    if settings.sealing_keys.get_secret_value():
        raise KeysFromEnvironmentError(
            "The sealing keys come from KOMMO_SEALING_KEYS. Put a new key in front there (separated by a comma) and "
            "restart everything; or unset it and let `kommo keys rotate` keep keys in the Kommo App block."
        )
    try:
        block = cast("KommoApp", await KommoApp.aload(DEFAULT_NAME, validate=False))
    except ValueError as error:
        if "Unable to find block document" not in str(error):
            raise  # there is one, and a new one would be saved over it
        block = KommoApp()
    keys = block.sealing_keys.get_secret_value().replace(",", " ").split()
    if not drop_old or not keys:
        keys = [new_key().get_secret_value(), *keys]
        block.sealing_keys = SecretStr(",".join(keys))
        await block.asave(DEFAULT_NAME, overwrite=True)
    sealer = block.filled_from(settings).sealer()
    done = Rotation(keys=len(keys))
    async with open_database(settings) as database:
        after = 0
        while rows := await sealed_rows(database, after, _PAGE):
            after = rows[-1].id
            for row in rows:
                try:
                    done.resealed += await reseal(database, row.id, row.sealed, sealer.reseal(row.sealed))
                except SealBrokenError:
                    done.unreadable += 1
    if drop_old and not done.unreadable and len(keys) > 1:
        block.sealing_keys = SecretStr(keys[0])
        await block.asave(DEFAULT_NAME, overwrite=True)
        done.keys = 1
    return done


def encryption_warning() -> str | None:
    """Why Prefect's own vault is not as safe as it looks, if it is not.

    Prefect keeps the key of its block documents in the clear in the same database unless
    PREFECT_SERVER_ENCRYPTION_KEY is set [M prefect-facts §4]. Only a server in this process's environment can be
    looked at from here; of a remote one nothing is known.
    """
    if PREFECT_API_URL.value() or os.environ.get("PREFECT_SERVER_ENCRYPTION_KEY"):
        return None
    return (
        "Prefect keeps the key of its secrets in the clear beside them: a copy of its database opens all blocks. Set "
        "PREFECT_SERVER_ENCRYPTION_KEY before the first secret is saved, and keep it out of the database's backup."
    )
