"""The doors by which the product writes: messages, tasks, deal fields, notes; each exactly once, or named unknown (R3).

An action runs in this process, not as a flow run: a run's start alone costs more than the whole action may take
(docs/decisions/2026-11-25-actions.md). Whoever hangs up breaks nothing off, and what this process leaves behind when
it dies is settled by the flow `settle-actions`.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.access import Caller, KeyedRoute, authorized_org
from gateway.answers import Refusal, action_problems, keyed_problems, problems
from gateway.services import services_of
from store.actions import ActionRecord, ActionState, get_action
from store.errors import NoSnapshotError
from tasks.actions import (
    ActionKind,
    AddNote,
    AnyWish,
    CreateTask,
    IdempotencyKey,
    SendMessage,
    UpdateDealField,
    perform,
)
from tasks.errors import IdempotencyConflictError, InvalidActionError, NotConnectedError

_AGAIN_SECONDS = 2
_NOT_CONNECTED = "This org is not connected to Kommo. Connect it first."
_NEVER_SYNCED = (
    "There is nothing to check this against, because the org was never synced. Have it synced first: "
    "POST /api/v1/agents/ID/sync-crm."
)
_ELSEWHERE = 502
"""What is answered for a reason that has no status of its own: it lies at Kommo."""
STATUS_OF_REASON: Mapping[str, int] = {
    "payment_required": 402,
    "quota_used_up": 402,
    "not_in_plan": 402,
    "forbidden": 403,
    "scope_missing": 403,
    "unauthorized": 403,
    "reauthorization_required": 403,
    "not_found": 404,
    "no_talk": 404,
    "talk_not_found": 404,
    "not_offered": 404,
    "not_connected": 404,
    "superseded": 409,
    "account_changed": 409,
    "invalid": 422,
    "refused_by_kommo": 422,
    "talk_closed": 422,
}
"""The HTTP status of each reason for which an action fails (`tasks.actions.outcomes`)."""

router = APIRouter(tags=["Actions"], route_class=KeyedRoute)
Org = Annotated[str, Path(description="The product's tenant.", examples=["acme"])]
Key = Annotated[
    IdempotencyKey,
    Header(
        alias="Idempotency-Key",
        description="1 to 200 printable characters without spaces, such as a UUID. The same key with the same body is "
        "the same action, done once and answered alike; with another body it is a conflict.",
        examples=["3f6c2c1e-7a55-4f7e-9d5e-6b1f0a2b9c11"],
    ),
]

SendMessageBody = Annotated[
    SendMessage, Body(examples=[{"entity_type": "leads", "entity_id": 15318175, "text": "Hello Ann"}])
]
CreateTaskBody = Annotated[
    CreateTask,
    Body(
        examples=[
            {
                "text": "Call Ann",
                "complete_till": 1800000000,
                "task_type_id": 1,
                "entity_id": 15318175,
                "entity_type": "leads",
            }
        ]
    ),
]
UpdateDealFieldBody = Annotated[
    UpdateDealField, Body(examples=[{"deal_id": 15318175, "field_id": 1016236, "value": "VIP"}])
]
AddNoteBody = Annotated[
    AddNote, Body(examples=[{"entity_type": "leads", "entity_id": 15318175, "text": "Ann called"}])
]


class ActionAnswer(BaseModel):
    """How an action stands."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "action_id": "5d1f6f0e9d5c4a3f8b7e6d5c4b3a2910",
                "org": "acme",
                "kind": "create-task",
                "idempotency_key": "3f6c2c1e-7a55-4f7e-9d5e-6b1f0a2b9c11",
                "state": "confirmed",
                "result": {"task_id": 7087},
                "reason": None,
                "reason_code": None,
                "attempts": 1,
                "created_at": "2026-11-25T10:00:00Z",
                "updated_at": "2026-11-25T10:00:00.412Z",
            }
        }
    )
    action_id: str
    org: str
    kind: ActionKind
    idempotency_key: str
    state: ActionState = Field(
        description="`confirmed` and `failed` are for good. `intended` was not sent yet, `sent` is under way, "
        "`unknown` cannot be told and is looked up again."
    )
    result: dict[str, Any] | None = Field(description="What Kommo made of it, such as the task's id.")
    reason: str | None = Field(description="Why, as a sentence for people.")
    reason_code: str | None = Field(description="Why, as a word for programs.")
    attempts: int = Field(description="How often it was sent to Kommo.")
    created_at: datetime
    updated_at: datetime


def _answers(done: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of a door that writes.

    Args:
        done: The status of what was done.
    """
    return {
        done: {"model": ActionAnswer, "description": "Kommo has done it."},
        202: {
            "model": ActionAnswer,
            "description": "It is under way, or it is not known whether Kommo has done it, and will be settled. Ask "
            "again under `Location`, or with the same key and body.",
            "headers": {
                "Location": {"description": "Where to ask.", "schema": {"type": "string"}},
                "Retry-After": {
                    "description": "Seconds after which to ask.",
                    "schema": {"type": "integer"},
                },
            },
        },
        **keyed_problems(body=True),
        **problems(
            bad=(
                400,
                "The key or the body is not as it should be; the sentence says how.",
                "Invalid request. header.Idempotency-Key: Field required.",
            )
        ),
        **action_problems(
            pay=(
                402,
                "The account's plan or quota does not have it.",
                "The account's plan does not have this.",
            ),
            other=(
                403,
                "The key is for other orgs; or Kommo refuses it to this integration.",
                "This key may not act for that org.",
            ),
            gone=(404, "The org is not connected, or Kommo has no such thing.", _NOT_CONNECTED),
            conflict=(
                409,
                "The key belongs to another request; or a later action has set the field; or the org was never synced.",
                "This Idempotency-Key belongs to another request.",
            ),
            invalid=(
                422,
                "It does not fit the org's CRM, and the sentence names what would; or Kommo refused it as it is.",
                "There is no task type 9. Task types: 1 (Follow-up), 2 (Meeting).",
            ),
            kommo=(502, "Kommo refused it, or could not be reached.", "Kommo could not be reached."),
        ),
    }


@router.post(
    "/api/v1/orgs/{org}/messages",
    summary="Send a customer a message",
    status_code=201,
    responses=_answers(201),
)
async def send_message(
    *, request: Request, caller: Caller, org: Org, key: Key, body: SendMessageBody
) -> Response:
    """Send a text into the open conversation of a deal or contact.

    With `as_note` it becomes an internal note instead, which the customer never sees, and the result says so.
    """
    return await _perform(request, authorized_org(caller, org), body, key, done=201)


@router.post(
    "/api/v1/orgs/{org}/tasks",
    summary="Make a task",
    status_code=201,
    responses=_answers(201),
)
async def create_task(
    *, request: Request, caller: Caller, org: Org, key: Key, body: CreateTaskBody
) -> Response:
    """Make a task for a person of the sales team, once."""
    return await _perform(request, authorized_org(caller, org), body, key, done=201)


@router.post(
    "/api/v1/orgs/{org}/deal-fields",
    summary="Give a deal's field a value",
    responses=_answers(200),
)
async def update_deal_field(
    *, request: Request, caller: Caller, org: Org, key: Key, body: UpdateDealFieldBody
) -> Response:
    """Give one field of a deal a value, after looking whether the field can have it."""
    return await _perform(request, authorized_org(caller, org), body, key, done=200)


@router.post(
    "/api/v1/orgs/{org}/notes",
    summary="Write an internal note",
    status_code=201,
    responses=_answers(201),
)
async def add_note(*, request: Request, caller: Caller, org: Org, key: Key, body: AddNoteBody) -> Response:
    """Write a note on a deal, contact or company. It never reaches the customer."""
    return await _perform(request, authorized_org(caller, org), body, key, done=201)


@router.get(
    "/api/v1/orgs/{org}/actions/{action_id}",
    summary="How an action stands",
    response_model=ActionAnswer,
    response_description="How it stands at this moment.",
    responses={
        **keyed_problems(),
        **problems(
            bad=(400, "The id is none.", "Invalid request. path.action_id: String should match pattern …"),
            unknown=(404, "The org has no such action.", "This org has no such action."),
        ),
    },
)
async def action(
    *,
    request: Request,
    caller: Caller,
    org: Org,
    action_id: Annotated[
        str,
        Path(
            pattern="^[0-9a-f]{32}$",
            description="From the answer to the request.",
            examples=["5d1f6f0e9d5c4a3f8b7e6d5c4b3a2910"],
        ),
    ],
) -> ActionAnswer:
    """An action that was asked for, whether it has been done or not."""
    org = authorized_org(caller, org)
    found = await get_action(services_of(request).database, org, action_id)
    if found is None:
        raise Refusal(404, "This org has no such action.")
    return _shown(found)


async def _perform(request: Request, org: str, wish: AnyWish, key: str, *, done: int) -> Response:
    services = services_of(request)
    work = asyncio.ensure_future(perform(services.actions, org, wish, key))
    # Whoever goes away, and a gateway that is being stopped, leave nothing half done that need not be.
    services.background.adopt(work)
    try:
        record = await asyncio.shield(work)
    except InvalidActionError as error:
        members = {"reason_code": "invalid"} | ({"field": error.field} if error.field else {})
        raise Refusal(422, str(error), members=members) from None
    except IdempotencyConflictError as error:
        raise Refusal(409, str(error), members={"reason_code": "idempotency_conflict"}) from None
    except NotConnectedError:
        raise Refusal(404, _NOT_CONNECTED, members={"reason_code": "not_connected"}) from None
    except NoSnapshotError:
        raise Refusal(409, _NEVER_SYNCED, members={"reason_code": "never_synced"}) from None
    return _answer(record, done)


def _answer(record: ActionRecord, done: int) -> Response:
    if record.state is ActionState.FAILED:
        code = record.reason_code or "failed"
        raise Refusal(
            STATUS_OF_REASON.get(code, _ELSEWHERE),
            record.reason or "Kommo did not do it.",
            members={"reason_code": code, "action_id": record.action_id},
        )
    body = _shown(record).model_dump(mode="json")
    if record.state is ActionState.CONFIRMED:
        return JSONResponse(body, done)
    where = f"/api/v1/orgs/{record.org}/actions/{record.action_id}"
    return JSONResponse(body, 202, {"Location": where, "Retry-After": str(_AGAIN_SECONDS)})


def _shown(record: ActionRecord) -> ActionAnswer:
    return ActionAnswer(**{name: getattr(record, name) for name in ActionAnswer.model_fields})
