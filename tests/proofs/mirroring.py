"""What proofs of webhooks share: comparing the record mirror with what the sandbox holds."""

import json
from collections.abc import Iterable
from typing import Any

from kommo.catalogue import CATALOGUE
from sandbox import render
from sandbox.state import Account
from store.database import Database
from store.mirror import get_record

KINDS = ("leads", "contacts", "companies", "tasks")
Changed = set[tuple[str, int]]


def held(account: Account, entity: str, record_id: int) -> dict[str, Any] | None:
    """A record as the API would show it, or None if it is not there or in the bin."""
    if entity == "tasks":
        found = account.tasks.get(record_id)
        return None if found is None else json.loads(json.dumps(render.task(account, found)))
    record = account.entities[entity].get(record_id)
    if record is None or record["is_deleted"]:
        return None
    shown: dict[str, Any] = json.loads(
        render.entity_json(account, entity, record, frozenset(CATALOGUE[entity].with_))
    )
    return shown


async def differences(
    database: Database, org: str, account: Account, changed: Iterable[tuple[str, int]]
) -> list[str]:
    """Where the mirror is not level with the sandbox, for records that have changed; empty when it is."""
    found = []
    for entity, record_id in sorted(changed):
        wanted, mirrored = (
            held(account, entity, record_id),
            await get_record(database, org, entity, record_id),
        )
        if mirrored is None:
            if wanted is not None:
                found.append(f"{entity} {record_id} is not mirrored")
        elif (wanted is None) != (mirrored.state != "present"):
            found.append(f"{entity} {record_id} is {mirrored.state} in the mirror")
        elif wanted is not None:
            raw = dict(mirrored.raw)
            found += [
                f"{entity} {record_id}: {key} differs: {wanted.get(key)} here, {raw.get(key)} mirrored"
                for key in sorted(wanted.keys() | raw.keys())
                if wanted.get(key) != raw.get(key)
            ]
    return found
