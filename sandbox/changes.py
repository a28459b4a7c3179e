"""Changes of an account's set-up as a person would make them in the UI: the sandbox's own lever for drift.

Those of its records are in `sandbox.changes_records`.

Every change is a plain function of the account and named arguments; the control API and `Sandbox.change` call them by
name. A change returns the ids that it made or touched.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from sandbox import seed_fields
from sandbox.changes_records import RECORD_CHANGES
from sandbox.seed import new_pipeline, new_status, new_user
from sandbox.state import FIELD_ENTITIES, Account, Collection, Record
from sandbox.world import World

Result = dict[str, Any]


def _stage(account: Account, pipeline_id: int, status_id: int) -> tuple[Record, Record]:
    pipeline, stage = account.pipelines.get(pipeline_id), account.status(pipeline_id, status_id)
    if pipeline is None or stage is None:
        raise LookupError(f"no status {status_id} in pipeline {pipeline_id}")
    return pipeline, stage


def _set_stages(account: Account, pipeline: Record, stages: list[Record]) -> None:
    account.pipelines.change(pipeline["id"], _statuses=stages)


def rename_status(world: World, account: Account, *, pipeline_id: int, status_id: int, name: str) -> Result:
    """Rename a stage, 142 and 143 included."""
    del world
    pipeline, stage = _stage(account, pipeline_id, status_id)
    stages = [known | {"name": name} if known is stage else known for known in pipeline["_statuses"]]
    _set_stages(account, pipeline, stages)
    return {"status_id": status_id}


def add_status(
    world: World, account: Account, *, pipeline_id: int, name: str, sort: int = 25, color: str = "#fffeb2"
) -> Result:
    """Add an ordinary stage."""
    del world
    pipeline = account.pipelines.get(pipeline_id)
    if pipeline is None:
        raise LookupError(f"no pipeline {pipeline_id}")
    stage = new_status(account, pipeline_id, name, sort, color=color)
    _set_stages(account, pipeline, [*pipeline["_statuses"], stage])
    return {"status_id": stage["id"]}


def delete_status(world: World, account: Account, *, pipeline_id: int, status_id: int) -> Result:
    """Delete a stage; its leads go to the first ordinary stage [D A]."""
    pipeline, stage = _stage(account, pipeline_id, status_id)
    _set_stages(account, pipeline, [known for known in pipeline["_statuses"] if known is not stage])
    first = next(known for known in account.statuses(pipeline_id) if known["type"] == 0)
    leads = account.entities["leads"]
    for lead in [
        known for known in leads if (known["pipeline_id"], known["status_id"]) == (pipeline_id, status_id)
    ]:
        leads.change(lead["id"], status_id=first["id"], updated_at=world.now())
    return {"status_id": status_id}


def move_status(
    world: World,
    account: Account,
    *,
    pipeline_id: int,
    status_id: int,
    sort: int | None = None,
    to_pipeline_id: int | None = None,
) -> Result:
    """Give a stage another place in the order, or put it into another pipeline under the same id."""
    del world
    pipeline, stage = _stage(account, pipeline_id, status_id)
    target = account.pipelines.get(to_pipeline_id or pipeline_id)
    if target is None:
        raise LookupError(f"no pipeline {to_pipeline_id}")
    moved = stage | {"sort": stage["sort"] if sort is None else sort, "pipeline_id": target["id"]}
    _set_stages(account, pipeline, [known for known in pipeline["_statuses"] if known is not stage])
    target = account.pipelines.get(target["id"]) or target
    _set_stages(account, target, [*target["_statuses"], moved])
    return {"status_id": status_id, "pipeline_id": target["id"]}


def add_pipeline(
    world: World, account: Account, *, name: str, lang: str = "en", stages: list[str] | None = None
) -> Result:
    """Add a pipeline."""
    del world
    titles = tuple(stages) if stages is not None else None
    return {"pipeline_id": new_pipeline(account, name, lang, stages=titles)["id"]}


def delete_pipeline(world: World, account: Account, *, pipeline_id: int) -> Result:
    """Delete a pipeline; its leads move to the main one's first stage (the UI asks for that first)."""
    if account.pipelines.remove(pipeline_id) is None:
        raise LookupError(f"no pipeline {pipeline_id}")
    main = account.main_pipeline()
    first = next(known for known in account.statuses(main["id"]) if known["type"] == 0)
    leads = account.entities["leads"]
    for lead in [known for known in leads if known["pipeline_id"] == pipeline_id]:
        leads.change(lead["id"], pipeline_id=main["id"], status_id=first["id"], updated_at=world.now())
    return {"pipeline_id": pipeline_id}


def archive_pipeline(world: World, account: Account, *, pipeline_id: int, archived: bool = True) -> Result:
    """Put a pipeline into the archive, or take it out."""
    return patch(world, account, kind="pipelines", id=pipeline_id, values={"is_archive": archived})


def rename_pipeline(world: World, account: Account, *, pipeline_id: int, name: str) -> Result:
    """Rename a pipeline."""
    return patch(world, account, kind="pipelines", id=pipeline_id, values={"name": name})


def set_main_pipeline(world: World, account: Account, *, pipeline_id: int) -> Result:
    """Make another pipeline the main one."""
    del world
    for known in list(account.pipelines):
        account.pipelines.change(known["id"], is_main=known["id"] == pipeline_id)
    return {"pipeline_id": pipeline_id}


def add_field(
    world: World,
    account: Account,
    *,
    entity: str,
    name: str,
    type: str,  # noqa: A002 - Kommo's key
    enums: list[str] | None = None,
) -> Result:
    """Add a custom field."""
    del world
    choices = {"enums": seed_fields.enums(account, tuple((value, None) for value in enums))} if enums else {}
    return {"field_id": seed_fields.definition(account, entity, name, type, **choices)["id"]}


def rename_field(world: World, account: Account, *, entity: str, field_id: int, name: str) -> Result:
    """Rename a custom field."""
    return patch(world, account, kind=f"{entity}_fields", id=field_id, values={"name": name})


def change_field_type(world: World, account: Account, *, entity: str, field_id: int, type: str) -> Result:  # noqa: A002 - the API's own word
    """Change the type of a custom field (delete and create under the same id, as far as a client can see)."""
    return patch(world, account, kind=f"{entity}_fields", id=field_id, values={"type": type})


def delete_field(world: World, account: Account, *, entity: str, field_id: int) -> Result:
    """Delete a custom field."""
    del world
    if account.fields[entity].remove(field_id) is None:
        raise LookupError(f"no field {field_id} of {entity}")
    return {"field_id": field_id}


def _enums(account: Account, entity: str, field_id: int) -> list[Record]:
    record = account.fields[entity].get(field_id)
    if record is None:
        raise LookupError(f"no field {field_id} of {entity}")
    return list(record["enums"] or [])


def add_enum(world: World, account: Account, *, entity: str, field_id: int, value: str) -> Result:
    """Add a choice to a field."""
    del world
    made = seed_fields.enums(account, ((value, None),))
    account.fields[entity].change(field_id, enums=_enums(account, entity, field_id) + made)
    return {"enum_id": made[0]["id"]}


def rename_enum(
    world: World, account: Account, *, entity: str, field_id: int, enum_id: int, value: str
) -> Result:
    """Rename a choice of a field."""
    del world
    kept = [
        enum | {"value": value} if enum["id"] == enum_id else enum
        for enum in _enums(account, entity, field_id)
    ]
    account.fields[entity].change(field_id, enums=kept)
    return {"enum_id": enum_id}


def remove_enum(world: World, account: Account, *, entity: str, field_id: int, enum_id: int) -> Result:
    """Remove a choice of a field."""
    del world
    kept = [enum for enum in _enums(account, entity, field_id) if enum["id"] != enum_id]
    account.fields[entity].change(field_id, enums=kept or None)
    return {"enum_id": enum_id}


def add_user(world: World, account: Account, *, name: str, admin: bool = False, lang: str = "en") -> Result:
    """Add a user."""
    dice = Random(f"{world.config.seed}:{name}")  # noqa: S311 - identifiers
    return {"user_id": new_user(account, name, lang, dice, admin=admin)["id"]}


def deactivate_user(world: World, account: Account, *, user_id: int, active: bool = False) -> Result:
    """Switch a user off, or on again."""
    user = account.users.get(user_id)
    if user is None:
        raise LookupError(f"no user {user_id}")
    rights = user["rights"] | {"is_active": active}
    return patch(world, account, kind="users", id=user_id, values={"rights": rights})


def add_loss_reason(world: World, account: Account, *, name: str) -> Result:
    """Add a loss reason."""
    reasons, now = account.loss_reasons, world.now()
    record = {"id": reasons.next_id(), "name": name, "sort": 100_000 * (len(reasons) + 1)}
    reasons.add(record | {"created_at": now, "updated_at": now})
    return {"loss_reason_id": record["id"]}


def patch(world: World, account: Account, *, kind: str, id: int = 0, values: Record) -> Result:  # noqa: A002 - the API's own word
    """Overwrite keys of anything, unchecked: account, hidden, or a record of one of `collections`."""
    del world
    if kind in {"account", "hidden"}:
        place = account.profile if kind == "account" else account.hidden
        place.update(values)
        return {"id": account.id}
    held = collections(account).get(kind)
    if held is None or id not in held:
        raise LookupError(f"no {kind} {id}; kinds: account, hidden, {', '.join(collections(account))}")
    held.change(id, **values)
    account.forget_rendered()
    return {"id": id}


def collections(account: Account) -> dict[str, Collection]:
    """Every collection of an account by the name that `patch` takes."""
    plain = {
        "users": account.users,
        "pipelines": account.pipelines,
        "loss_reasons": account.loss_reasons,
        "sources": account.sources,
        "talks": account.talks,
        "tasks": account.tasks,
        "notes": account.notes,
        "webhooks": account.webhooks,
    }
    fields = {f"{entity}_fields": account.fields[entity] for entity in FIELD_ENTITIES}
    return plain | fields | account.entities


CHANGES: dict[str, Callable[..., Result]] = {
    change.__name__: change
    for change in (
        rename_status, add_status, delete_status, move_status, add_pipeline, delete_pipeline, archive_pipeline,
        rename_pipeline, set_main_pipeline, add_field, rename_field, change_field_type, delete_field, add_enum,
        rename_enum, remove_enum, add_user, deactivate_user, add_loss_reason, patch, *RECORD_CHANGES,
    )
}  # fmt: skip


def apply(world: World, account: Account, name: str, arguments: Record) -> Result:
    """Make a change by its name.

    Args:
        world: The state.
        account: Where.
        name: One of `CHANGES`.
        arguments: Its named arguments.

    Raises:
        LookupError: No such change, or it names something that is not there.
        TypeError: The arguments do not fit.
    """
    if name not in CHANGES:
        raise LookupError(f"no change {name!r}; known: {', '.join(CHANGES)}")
    result = CHANGES[name](world, account, **arguments)
    if CHANGES[name] not in RECORD_CHANGES:
        account.forget_rendered()
    return result
