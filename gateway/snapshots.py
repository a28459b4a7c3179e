"""What is known of an account's set-up: each kind as it is or was, what changed between two runs, how a sync stands."""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.access import Caller, KeyedRoute, authorized_org
from gateway.agents import RUN_ID, TAKEN_AT
from gateway.answers import Refusal, keyed_problems, problems
from gateway.services import services_of
from gateway.syncs import Phase
from store.drift import ChangeKind, Severity, diff
from store.errors import NoSnapshotError, NothingToCompareError, UnknownRunError
from store.kinds import ALIASES, KINDS
from store.runs import SnapshotState
from store.snapshots import read_snapshot
from store.standing import standing_of
from store.types import dump_json

_SHAPE = "1"
"""Part of every ETag: raised when the shape of the answer changes, though what is stored has not."""
_BAD = (
    400,
    "A parameter is not as it should be; the sentence says which.",
    "Invalid request. query.at: Input should be a valid datetime.",
)
_ID = r"^[0-9a-fA-F-]{1,64}$"
_NEVER = (
    "Nothing of this kind has been read{by}. Have the org synced (POST /api/v1/agents/ID/sync-crm); if it was, "
    "the sync's status says why it failed."
)
_UNKNOWN_KIND = (
    f"There is no such kind. Kinds: {', '.join(KINDS)}; the product's words: {', '.join(ALIASES)}."
)

router = APIRouter(tags=["Set-up"], route_class=KeyedRoute)
Org = Annotated[str, Path(description="The product's tenant.", examples=["acme"])]


class SnapshotAnswer(BaseModel):
    """One kind of an org's set-up, as it was at a time."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "org": "acme",
                "kind": "loss_reasons",
                "changed_at": "2026-11-23T10:01:00Z",
                "items": [{"id": 4203748, "name": "Too expensive", "sort": 100000}],
            }
        }
    )
    org: str
    kind: str = Field(description="The kind's own name, also where it was asked for by the product's word.")
    changed_at: datetime = Field(description="Since when it has been as it is here.")
    items: list[dict[str, Any]] = Field(
        description="In their order, with Kommo's names; statuses inside their pipeline and enums inside their field."
    )


class ChangeAnswer(BaseModel):
    """One item that differs."""

    kind: str = Field(examples=["statuses"])
    key: str = Field(description="The item's key within its kind.", examples=["8572500:67548605"])
    name: str | None = Field(examples=["Initial contact"])
    parent: str | None = Field(description="The pipeline or field that it belongs to.", examples=["Pipeline"])
    change: ChangeKind
    before: dict[str, Any] | None = Field(description="What changed, as it was; None if it was added.")
    after: dict[str, Any] | None = Field(description="The same, as it is; None if it was removed.")
    severity: Severity
    why: str = Field(description="Who is hit and how.")


class DriftAnswer(BaseModel):
    """What differs between what two runs saw, weightiest first."""

    org: str
    from_run: str
    to_run: str
    worst: Severity | None = Field(
        description="The weight of the weightiest change; None if nothing changed."
    )
    counts: dict[str, int] = Field(
        description="How many changes there are of each weight.", examples=[{"breaking": 1}]
    )
    changes: list[ChangeAnswer]
    not_compared: list[str] = Field(
        description="Kinds that were read for the first time: that is no drift.", examples=[["users"]]
    )


class SyncKind(BaseModel):
    """What became of one kind."""

    kind: str = Field(examples=["pipelines"])
    state: SnapshotState
    items: int
    added: int
    changed: int
    removed: int
    reason: str | None = Field(description="Why it could not be read.")


class SyncStatus(BaseModel):
    """How a sync stands."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "run_id": "0d0a7f3e-5c35-4f0b-9a94-0b7f5d0c2a11",
                "org": "acme",
                "state": "completed",
                "reason": None,
                "started_at": "2026-11-23T10:00:10Z",
                "finished_at": "2026-11-23T10:00:14Z",
                "requests": 12,
                "kinds": [],
            }
        }
    )
    run_id: str
    org: str
    state: Phase
    reason: str | None = Field(description="Why it failed.")
    started_at: datetime | None = Field(description="None before it has begun.")
    finished_at: datetime | None
    requests: int = Field(description="Requests sent to Kommo.")
    kinds: list[SyncKind]


@router.get(
    "/api/v1/orgs/{org}/snapshots/{kind}",
    summary="One kind of the set-up",
    response_model=SnapshotAnswer,
    response_description="As it is known, or was known at the time asked for.",
    responses={
        200: {
            "headers": {
                "ETag": {
                    "description": "Strong, and the same for as long as nothing changes, however often it is read.",
                    "schema": {"type": "string"},
                },
                TAKEN_AT: {
                    "description": "When it was last read.",
                    "schema": {"type": "string", "format": "date-time"},
                },
                RUN_ID: {"description": "The run that read it.", "schema": {"type": "string"}},
            }
        },
        304: {"description": "What `If-None-Match` names is what there is."},
        **keyed_problems(),
        **problems(
            bad=_BAD,
            unknown=(404, "No such kind, or nothing of it has been read.", _UNKNOWN_KIND),
        ),
    },
)
async def snapshot(
    *,
    request: Request,
    caller: Caller,
    org: Org,
    kind: Annotated[
        str,
        Path(
            description="A kind, or the product's word for it.",
            examples=["pipelines"],
            json_schema_extra={"enum": [*KINDS, *ALIASES]},
        ),
    ],
    at: Annotated[
        datetime | None,
        Query(
            description="As it was known at this time (UTC unless it names another zone).",
            examples=["2026-11-23T10:00:00Z"],
        ),
    ] = None,
    raw: Annotated[bool, Query(description="Add Kommo's own object of each item, as `raw`.")] = False,
    if_none_match: Annotated[
        str | None,
        Header(description="The ETag of what you have: if it is what there is, the answer is 304."),
    ] = None,
) -> Response:
    """Everything of one kind, whole: from one reading that was read to its end."""
    org = authorized_org(caller, org)
    if kind not in KINDS and kind not in ALIASES:
        raise Refusal(404, _UNKNOWN_KIND)
    database, moment = services_of(request).database, _utc(at)
    standing = await standing_of(database, org, kind, moment)
    if standing is None:
        raise Refusal(404, _NEVER.format(by=" by that time" if at else " yet"))
    tag = _etag(standing.kind, standing.changed_at, raw=raw)
    headers = {"Cache-Control": "private, no-cache", TAKEN_AT: standing.taken_at.isoformat()}
    if _matches(if_none_match, tag):
        return Response(status_code=304, headers=headers | {"ETag": tag, RUN_ID: standing.run_id})
    try:
        view = await read_snapshot(database, org, kind, moment, raw=raw)
    except NoSnapshotError:  # it was purged meanwhile
        raise Refusal(404, _NEVER.format(by=" yet")) from None
    # Another one may have been saved since; what is told of it must be of what was read.
    read = await standing_of(database, org, kind, view.taken_at) or standing
    answer = SnapshotAnswer(org=org, kind=view.kind, changed_at=read.changed_at, items=view.items)
    headers |= {
        "ETag": _etag(view.kind, read.changed_at, raw=raw),
        TAKEN_AT: view.taken_at.isoformat(),
        RUN_ID: view.run_id,
    }
    return _told(answer, headers)


def _told(answer: BaseModel, headers: dict[str, str] | None = None) -> Response:
    """As the store writes JSON: Kommo's own objects may hold halves of surrogate pairs, which UTF-8 cannot."""
    text = dump_json(answer.model_dump(mode="json"))
    return Response(text, media_type="application/json", headers=headers)


def _etag(kind: str, changed_at: datetime, *, raw: bool) -> str:
    said = "|".join((_SHAPE, kind, changed_at.astimezone(UTC).isoformat(), str(raw)))
    return f'"{hashlib.sha256(said.encode()).hexdigest()[:32]}"'


def _matches(header: str | None, tag: str) -> bool:
    """Whether `If-None-Match` names the tag; it compares weakly (RFC 9110, 13.1.2)."""
    if header is None:
        return False
    named = [one.strip().removeprefix("W/") for one in header.split(",")]
    return tag in named or named == ["*"]


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise Refusal(400, "Invalid request. query.at: this time is out of range.") from None


@router.get(
    "/api/v1/orgs/{org}/drift",
    summary="What changed between two runs",
    response_model=DriftAnswer,
    response_description="The changes, weightiest first.",
    responses={
        **keyed_problems(),
        **problems(
            bad=_BAD,
            unknown=(
                404,
                "There are not two runs to compare, or one of those named is not the org's.",
                "There are not two finished runs of this org that saved something.",
            ),
        ),
    },
)
async def drift(
    *,
    request: Request,
    caller: Caller,
    org: Org,
    from_run: Annotated[
        str | None,
        Query(
            alias="from", pattern=_ID, description="The earlier run; by default the one before the later one."
        ),
    ] = None,
    to_run: Annotated[
        str | None, Query(alias="to", pattern=_ID, description="The later run; by default the newest.")
    ] = None,
) -> Response:
    """What differs between what two runs saw, and what that breaks. Of runs that are not named, the newest two."""
    org = authorized_org(caller, org)
    try:
        found = await diff(services_of(request).database, org, from_run, to_run)
    except NothingToCompareError as error:
        raise Refusal(404, str(error)) from None
    except UnknownRunError:
        raise Refusal(
            404, "There is no such run of this org. X-Kommo-Run-Id of an answer names one."
        ) from None
    answer = DriftAnswer(
        org=found.org,
        from_run=str(found.from_run),
        to_run=found.to_run,
        worst=found.worst,
        counts=found.counts(),
        changes=[ChangeAnswer(**jsonable_encoder(change)) for change in found.changes],
        not_compared=list(found.not_compared),
    )
    return _told(answer)


@router.get(
    "/api/v1/orgs/{org}/syncs/{run_id}",
    summary="How a sync stands",
    response_model=SyncStatus,
    response_description="How it stands at this moment.",
    responses={
        **keyed_problems(),
        **problems(bad=_BAD, unknown=(404, "The org has no such run.", "This org has no such run.")),
    },
)
async def sync_status(
    *,
    request: Request,
    caller: Caller,
    org: Org,
    run_id: Annotated[
        str,
        Path(pattern=_ID, description="From a 202, or from `X-Kommo-Run-Id`."),
    ],
) -> SyncStatus:
    """A sync that was asked for: whether it has begun, how it ended, what became of each kind."""
    org = authorized_org(caller, org)
    standing = await services_of(request).syncs.standing(org, run_id)
    if standing is None:
        raise Refusal(404, "This org has no such run.")
    record = standing.record
    return SyncStatus(
        run_id=run_id,
        org=org,
        state=standing.phase,
        reason=standing.reason,
        started_at=None if record is None else record.started_at,
        finished_at=None if record is None else record.finished_at,
        requests=0 if record is None else record.requests,
        kinds=[]
        if record is None
        else [
            SyncKind(**{name: getattr(saved, name) for name in SyncKind.model_fields})
            for saved in record.snapshots
        ],
    )
