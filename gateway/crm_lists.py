"""The four lists that the product knows, in its own shapes (product-contract.md, rows 4 to 6 and 13)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from store.database import Database
from store.errors import NoSnapshotError
from store.runs import RunRecord, SnapshotState
from store.snapshots import read_snapshot
from tasks.scopes import Scope

PARTS: Mapping[str, str] = {
    "funnels": "pipelines",
    "channels": "channels",
    "dealFields": "lead_fields",
    "contactFields": "contact_fields",
}
"""The product's name of each list, and our kind."""
PARTS_OF_SCOPE: Mapping[Scope, tuple[str, ...]] = {
    Scope.FUNNELS: ("funnels",),
    Scope.CHANNELS: ("channels",),
    Scope.FIELDS: ("dealFields", "contactFields"),
    Scope.ALL: tuple(PARTS),
}


class FunnelStatus(BaseModel):
    """A stage of a funnel."""

    id: int = Field(description="142 is won and 143 is lost, in every funnel.", examples=[67548605])
    name: str | None = Field(examples=["Initial contact"])
    sort: int | None = Field(examples=[20])
    color: str | None = Field(examples=["#99ccff"])


class Funnel(BaseModel):
    """A pipeline."""

    id: int = Field(examples=[8572500])
    name: str | None = Field(examples=["Pipeline"])
    sort: int | None = Field(examples=[1])
    is_main: bool | None
    statuses: list[FunnelStatus] = Field(description="In their order.")


class CrmChannel(BaseModel):
    """A channel in which customers write."""

    id: str = Field(examples=["waba"])
    name: str | None = Field(examples=["WhatsApp Business"])
    type: str | None = Field(examples=["waba"])
    account_id: int | None = Field(description="Kommo's id of the account.", examples=[31234567])


class CrmField(BaseModel):
    """A custom field."""

    id: int = Field(examples=[1016236])
    name: str | None = Field(examples=["Client type"])
    type: str | None = Field(examples=["select"])
    code: str | None = Field(description="A name for programs, which few fields have.")
    is_system: bool | None = Field(description="It comes with Kommo, or cannot be deleted.")


class CrmLists(BaseModel):
    """The lists that were asked for, and no others."""

    funnels: list[Funnel] = Field(default_factory=list, description="For `funnels` and `all`.")
    channels: list[CrmChannel] = Field(default_factory=list, description="For `channels` and `all`.")
    dealFields: list[CrmField] = Field(  # noqa: N815 - the product's name - the product's word
        default_factory=list, description="For `fields` and `all`."
    )
    contactFields: list[CrmField] = Field(  # noqa: N815 - the product's name
        default_factory=list, description="For `fields` and `all`."
    )


class StalePart(BaseModel):
    """A list that this sync could not read."""

    part: str = Field(description="Which of the lists.", examples=["channels"])
    reason: str = Field(description="Why, as a sentence.", examples=["Kommo has too much to do (HTTP 503)."])
    taken_at: datetime | None = Field(
        description="When what is answered instead was read; None if it never was, and then the list is left out."
    )


@dataclass(frozen=True)
class Gathered:
    """The lists of one org.

    Attributes:
        lists: those that were asked for and have ever been read.
        stale: those that the sync could not read.
        taken_at: when the oldest of the lists was read; None if there is none.
    """

    lists: CrmLists
    stale: list[StalePart]
    taken_at: datetime | None


async def gather_lists(
    database: Database, org: str, scope: Scope, *, run: RunRecord | None, reason: str | None = None
) -> Gathered:
    """Read the lists of a scope as they are stored, and say which of them a sync could not read.

    Args:
        database: The store.
        org: The product's tenant.
        scope: What was asked for.
        run: What the sync has written down; None where none was run, or it wrote nothing.
        reason: Why there is nothing of the run; None where none was run.
    """
    found: dict[str, Any] = {}
    times: list[datetime] = []
    stale: list[StalePart] = []
    for part in PARTS_OF_SCOPE[scope]:
        taken_at: datetime | None = None
        try:
            view = await read_snapshot(database, org, PARTS[part])
        except NoSnapshotError:
            pass
        else:
            found[part] = view.items
            taken_at = view.taken_at
            times.append(taken_at)
        why = _why_not_read(PARTS[part], run, reason)
        if why is None and taken_at is None:
            why = "It has never been read."
        if why is not None:
            stale.append(StalePart(part=part, reason=why, taken_at=taken_at))
    return Gathered(CrmLists.model_validate(found), stale, min(times, default=None))


def _why_not_read(kind: str, run: RunRecord | None, reason: str | None) -> str | None:
    """Why a run did not read a kind; None if it did, or there was none."""
    if run is None:
        return reason
    for saved in run.snapshots:
        if saved.kind == kind:
            return saved.reason if saved.state == SnapshotState.FAILED else None
    return run.reason or "The sync ended before it came to it."
