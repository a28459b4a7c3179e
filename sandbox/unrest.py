"""Records that change, appear, vanish and come back between the pages of whoever reads them: the fault `unrest`."""

import contextlib
from random import Random

from sandbox import changes_records as changes
from sandbox.state import Account
from sandbox.world import World

_ENTITIES = frozenset({"leads", "contacts", "companies", "tasks"})


def stir(world: World, account: Account, path: str, *, changed: int, dice: Random) -> None:
    """Make changes in the list that a request is about to read; nothing if it reads no list of records.

    Args:
        world: The state.
        account: Where.
        path: Path of the request.
        changed: How many changes.
        dice: Decides which.
    """
    entity = path.removeprefix("/api/v4/").strip("/")
    if entity not in _ENTITIES:
        return
    for _ in range(changed):
        _change(world, account, entity, dice)


def _change(world: World, account: Account, entity: str, dice: Random) -> None:
    held = account.tasks if entity == "tasks" else account.entities[entity]
    ids = [int(record["id"]) for record in held if not record.get("is_deleted")]
    roll = dice.random()
    name = f"Stirred {dice.randrange(10**6)}"
    if roll < 0.2 or not ids:
        values = {"text": name, "complete_till": world.now() + 3600} if entity == "tasks" else {"name": name}
        changes.add_record(world, account, entity=entity, values=values)
    elif roll < 0.55:
        key = "text" if entity == "tasks" else "name"
        changes.update_record(world, account, entity=entity, id=dice.choice(ids), values={key: name})
    elif roll < 0.9 or entity == "tasks":
        changes.delete_record(world, account, entity=entity, id=dice.choice(ids))
    else:
        gone = [int(record["id"]) for record in held if record.get("is_deleted")]
        if gone:
            with contextlib.suppress(LookupError):
                changes.restore_record(world, account, entity=entity, id=dice.choice(gone))
