"""Another encryption key for Prefect's blocks: all of them or none, and never one that would be lost."""

import json
import shutil
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from deployments.reencrypt import Reencrypted, ReencryptError, reencrypt_blocks
from tests.proofs.restoring import MIGRATED

pytestmark = pytest.mark.usefixtures("prefect_api")  # it has made the database that is copied

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database of Prefect's with no key and no block in it."""
    copy = Path(shutil.copy(MIGRATED, tmp_path / "prefect.db"))
    with closing(sqlite3.connect(copy)) as opened, opened:
        opened.execute("delete from block_document")
        opened.execute("delete from configuration where key = 'ENCRYPTION_KEY'")
    return copy


def add_block(file: Path, name: str, key: str) -> None:
    token = Fernet(key.encode()).encrypt(json.dumps({"secret": name}).encode()).decode()
    values = (str(uuid.uuid4()), name, json.dumps(token), *(str(uuid.uuid4()) for _ in range(2)))
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute(
            "insert into block_document (id, name, data, block_schema_id, block_type_id, is_anonymous) "
            "values (?, ?, ?, ?, ?, 0)",
            values,
        )


def blocks(file: Path, key: str) -> dict[str, str]:
    """What each block holds, opened with this key."""
    with closing(sqlite3.connect(file)) as opened:
        rows = opened.execute("select name, data from block_document").fetchall()
    fernet = Fernet(key.encode())
    return {name: json.loads(fernet.decrypt(json.loads(data).encode()))["secret"] for name, data in rows}


async def test_all_blocks_get_the_new_key_and_again_changes_nothing(file: Path) -> None:
    for name in ("kommo-acme", "kommo-beta"):
        add_block(file, name, OLD)
    url = f"sqlite+aiosqlite:///{file}"
    assert await reencrypt_blocks(url, OLD, NEW) == Reencrypted(2, 0, removed_key=False)
    assert blocks(file, NEW) == {"kommo-acme": "kommo-acme", "kommo-beta": "kommo-beta"}
    assert await reencrypt_blocks(url, OLD, NEW) == Reencrypted(0, 2, removed_key=False)


async def test_the_key_that_prefect_made_is_taken_out_of_its_database(file: Path) -> None:
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute(
            "insert into configuration (id, key, value) values (?, 'ENCRYPTION_KEY', ?)",
            (str(uuid.uuid4()), json.dumps({"fernet_key": OLD})),
        )
    add_block(file, "kommo-acme", OLD)
    assert await reencrypt_blocks(f"sqlite+aiosqlite:///{file}", None, NEW) == Reencrypted(
        1, 0, removed_key=True
    )
    assert blocks(file, NEW) == {"kommo-acme": "kommo-acme"}
    with closing(sqlite3.connect(file)) as opened:
        assert opened.execute("select * from configuration where key = 'ENCRYPTION_KEY'").fetchall() == []


async def test_one_block_that_cannot_be_opened_leaves_all_as_they_are(file: Path) -> None:
    add_block(file, "kommo-acme", OLD)
    url = f"sqlite+aiosqlite:///{file}"
    with pytest.raises(ReencryptError, match="KOMMO_OLD_ENCRYPTION_KEY"):
        await reencrypt_blocks(url, None, NEW)
    with pytest.raises(ReencryptError, match="not a Fernet key"):
        await reencrypt_blocks(url, OLD, "short")
    add_block(file, "zeta", Fernet.generate_key().decode())
    with pytest.raises(ReencryptError, match="'zeta' opens with neither key"):
        await reencrypt_blocks(url, OLD, NEW)
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("delete from block_document where name = 'zeta'")
    assert blocks(file, OLD) == {"kommo-acme": "kommo-acme"}
