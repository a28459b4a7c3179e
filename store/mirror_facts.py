"""What the mirror tells of records: in which state each is, and what saving one came to."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class RecordState(StrEnum):
    """`deleted`: Kommo has said so. `missing`: the API does not give it any more, and nobody knows why."""

    PRESENT = "present"
    DELETED = "deleted"
    MISSING = "missing"


class ChangeKind(StrEnum):
    """What saving a record came to; `older`: the mirror had something newer, and nothing was written."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    RESTORED = "restored"
    OLDER = "older"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is told of a record beside its JSON. Times are aware and UTC."""

    state: str
    name: str | None
    responsible_user_id: int | None
    status_id: int | None
    pipeline_id: int | None
    created_at: datetime | None
    updated_at: datetime | None
    state_since: datetime
    read_at: datetime
    source: str
    digest: str


@dataclass(frozen=True, slots=True)
class Change:
    """What saving a record came to: before (None if it was unknown) and after."""

    kind: ChangeKind
    before: Facts | None
    after: Facts


@dataclass(frozen=True, slots=True)
class StoredRecord(Facts):
    """A record of the mirror."""

    org: str
    entity: str
    record_id: int
    raw: Any = field(repr=False)
