"""The door by which the product has an account's set-up read (product-contract.md, row 13)."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.access import Caller, KeyedRoute, NamedOrg, authorized_org
from gateway.answers import BUSY_SECONDS, UNAVAILABLE, Refusal, keyed_seed_errors, seed_errors
from gateway.crm_lists import CrmLists, Gathered, StalePart, gather_lists
from gateway.middleware import reference_of
from gateway.services import services_of
from gateway.syncs import Phase, SyncUnavailableError
from store.connections import ConnectionState, get_connection
from store.errors import UnknownConnectionError
from tasks.scopes import Scope

TAKEN_AT = "X-Kommo-Taken-At"
RUN_ID = "X-Kommo-Run-Id"
NOT_CONNECTED = "CRM not connected"
_NEVER_READ = "Nothing of this has been read yet. Ask again without fresh=false."
_log = logging.getLogger("gateway")

router = APIRouter(tags=["Set-up"], route_class=KeyedRoute)


class SyncRequest(BaseModel):
    """What to read."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": {"type": "all"}})
    type: Scope = Field(description="`funnels`, `channels`, `fields` (of deals and contacts), or `all`.")


class SyncAnswer(BaseModel):
    """The lists that were asked for."""

    data: CrmLists
    stale: list[StalePart] = Field(
        default_factory=list,
        description="Only there if a list could not be read: it is then as it was read before, and named here.",
    )


class SyncGoesOn(BaseModel):
    """The sync has not ended yet."""

    run_id: str = Field(examples=["0d0a7f3e-5c35-4f0b-9a94-0b7f5d0c2a11"])
    status_url: str = Field(
        description="Where to ask how it stands; under the gateway's address.",
        examples=["/api/v1/orgs/acme/syncs/0d0a7f3e-5c35-4f0b-9a94-0b7f5d0c2a11"],
    )
    state: Phase = Field(examples=["running"])


_EXAMPLE = {
    "data": {
        "channels": [
            {"id": "waba", "name": "WhatsApp Business", "type": "waba", "account_id": 31234567},
        ]
    }
}
_HEADERS = {
    TAKEN_AT: {
        "description": "When the oldest of the lists was read.",
        "schema": {"type": "string", "format": "date-time"},
    },
    RUN_ID: {"description": "The run that read them.", "schema": {"type": "string"}},
}


@router.post(
    "/api/v1/agents/{id}/sync-crm",
    summary="Read an account's set-up",
    response_model=SyncAnswer,
    response_description="The lists that were asked for, and no others.",
    responses={
        200: {"content": {"application/json": {"example": _EXAMPLE}}, "headers": _HEADERS},
        202: {
            "model": SyncGoesOn,
            "description": "It takes longer than `wait`. The lists can be had with `fresh=false` when it has ended.",
            "headers": {
                "Location": {"description": "The same as `status_url`.", "schema": {"type": "string"}},
                "Retry-After": {
                    "description": "Seconds after which to ask.",
                    "schema": {"type": "integer"},
                },
            },
        },
        **keyed_seed_errors(body=True),
        **seed_errors(
            bad=(
                400,
                "The org is not connected; or the request is not as it should be, and the sentence says how.",
                [NOT_CONNECTED, "Invalid request. body.type: Field required."],
            ),
            never=(404, "With `fresh=false`: nothing has been read yet.", [_NEVER_READ]),
            failed=(
                502,
                "The sync failed, and none of it was ever read before.",
                ["Kommo refused the token (HTTP 401)."],
            ),
        ),
    },
)
async def sync_crm(
    *,
    request: Request,
    caller: Caller,
    org: NamedOrg,
    agent: Annotated[
        str, Path(alias="id", max_length=200, description="The product's agent.", examples=["a1"])
    ],
    body: SyncRequest,
    wait: Annotated[
        float, Query(ge=0, le=60, allow_inf_nan=False, description="Seconds to wait for the end of the sync.")
    ] = 25.0,
    fresh: Annotated[bool, Query(description="`false`: answer at once, from what was read last.")] = True,
) -> Response:
    """Have the set-up of an org's account read, and answer with it.

    Who asks for the same while it is under way waits for the same run. A list that cannot be read fails none of the
    others: it is answered as it was read before, and named under `stale`. The org is the one that the header
    `X-Kommo-Org` names; the agent is only noted in the log.
    """
    org = authorized_org(caller, org)
    services = services_of(request)
    try:
        connection = await get_connection(services.database, org)
    except UnknownConnectionError:
        raise Refusal(400, NOT_CONNECTED) from None
    if connection.state in {ConnectionState.DISCONNECTED, ConnectionState.FAILED}:
        raise Refusal(400, NOT_CONNECTED)
    if not fresh:
        gathered = await gather_lists(services.database, org, body.type, run=None)
        if gathered.taken_at is None:
            raise Refusal(404, _NEVER_READ)
        return _answer(gathered, connection.last_sync_run_id)
    try:
        run_id = await services.syncs.start(org, body.type)
    except SyncUnavailableError:
        raise Refusal(503, UNAVAILABLE, {"Retry-After": str(BUSY_SECONDS)}) from None
    _log.info(
        "%s: sync of %s (%s) for agent %s: run %s",
        reference_of(request.scope),
        org,
        body.type.value,
        ascii(agent[:60]),
        run_id,
    )
    standing = await services.syncs.wait(org, run_id, wait)
    if not standing.phase.is_final:
        status_url = f"/api/v1/orgs/{org}/syncs/{run_id}"
        told = SyncGoesOn(run_id=run_id, status_url=status_url, state=standing.phase)
        return JSONResponse(told.model_dump(), 202, {"Location": status_url, "Retry-After": "2"})
    gathered = await gather_lists(
        services.database, org, body.type, run=standing.record, reason=standing.reason
    )
    if gathered.taken_at is None:
        reasons = dict.fromkeys(part.reason for part in gathered.stale)
        raise Refusal(502, " ".join(reasons))
    return _answer(gathered, None if standing.record is None else standing.record.run_id)


def _answer(gathered: Gathered, run_id: str | None) -> Response:
    body: dict[str, Any] = {"data": gathered.lists.model_dump(mode="json", exclude_unset=True)}
    if gathered.stale:
        body["stale"] = [part.model_dump(mode="json") for part in gathered.stale]
    headers = {} if gathered.taken_at is None else {TAKEN_AT: gathered.taken_at.isoformat()}
    if run_id is not None:
        headers[RUN_ID] = run_id
    return JSONResponse(body, headers=headers)
