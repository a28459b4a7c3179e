"""`kommo keys reencrypt`: another encryption key for Prefect's blocks."""

import os

from deployments.cli.output import print_json, say
from deployments.cli.run import WrongUseError, many_imports

_URL, _NEW, _OLD = (
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_ENCRYPTION_KEY",
    "KOMMO_OLD_ENCRYPTION_KEY",
)


async def reencrypt(*, json: bool = False) -> None:
    """Write all blocks of Prefect with another encryption key, all or none. Stop Prefect's server first.

    Keys and address come from the environment, because other users can read a command line:
    PREFECT_SERVER_DATABASE_CONNECTION_URL, PREFECT_SERVER_ENCRYPTION_KEY (the new key) and KOMMO_OLD_ENCRYPTION_KEY
    (the old one; without it, the one that Prefect made and keeps in its database).

    Args:
        json: Print what was done as JSON.
    """
    missing = [name for name in (_URL, _NEW) if not os.environ.get(name)]
    if missing:
        raise WrongUseError(f"Set {' and '.join(missing)}: `kommo keys reencrypt --help` says what they are.")
    with many_imports():
        from dataclasses import asdict

        from deployments.reencrypt import reencrypt_blocks

    done = await reencrypt_blocks(os.environ[_URL], os.environ.get(_OLD) or None, os.environ[_NEW])
    if json:
        print_json(asdict(done))
        return
    say(f"{done.written} blocks were written with the new key; {done.already} had been before.")
    if done.removed_key:
        say("The key that lay in Prefect's database was removed from it.")
    say("Start Prefect's server with the new key. Backups from before still need the old one.")
