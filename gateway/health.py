"""Whether the process lives, and whether it can do its work."""

import asyncio
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from gateway.access import Caller, KeyedRoute
from gateway.answers import BUSY_SECONDS, UNAVAILABLE, Refusal, keyed_problems
from gateway.metrics import CONTENT_TYPE
from gateway.remembered import LookupBusyError
from gateway.services import services_of
from store.errors import StoreError
from tasks.errors import AppIncompleteError

_PATIENCE = 3.0

router = APIRouter(tags=["Health"])


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """What the work needs, each `ok` or `failing`; the reasons are in the log."""

    status: Literal["ok", "failing"]
    database: Literal["ok", "failing"] = Field(description="The tables can be read and are of this version.")
    integration: Literal["ok", "failing"] = Field(description="Client id, secret and redirect URI are known.")


@router.get("/healthz", summary="Is it alive?", response_description="It is.")
async def healthz() -> Alive:
    """Whether the process answers at all; looks at nothing else."""
    return Alive()


@router.get(
    "/readyz",
    summary="Can it do its work?",
    response_description="It can.",
    responses={503: {"model": Ready, "description": "Something that the work needs is failing."}},
)
async def readyz(request: Request, response: Response) -> Ready:
    """Whether the database and the integration are there. Prefect is not asked: the doors do not need it."""
    services = services_of(request)
    database, integration = True, True
    try:
        async with asyncio.timeout(_PATIENCE):
            database = (await services.database.state()).name == "current"
    except (StoreError, TimeoutError) as error:
        request.scope["state"]["fault"] = str(error) or "the database takes too long"
        database = False
    try:
        await services.app()
    except AppIncompleteError:
        integration = False
    good = database and integration
    response.status_code = 200 if good else 503
    return Ready(status=_word(good), database=_word(database), integration=_word(integration))


# Some of those who watch ask for the head only.
for _path, _door in (("/healthz", healthz), ("/readyz", readyz)):
    router.add_api_route(_path, _door, methods=["HEAD"], include_in_schema=False)

metrics_router = APIRouter(tags=["Health"], route_class=KeyedRoute)


@metrics_router.get(
    "/metrics",
    summary="What was answered, what waits",
    response_class=PlainTextResponse,
    response_description="Prometheus' text format.",
    responses={
        200: {"content": {"text/plain": {"example": "kommo_backlog_pending 0.0\n"}}},
        **keyed_problems(),
    },
)
async def metrics(request: Request, caller: Caller) -> Response:
    """Counts of this process, and of what waits in the installation; no orgs by name.

    For a key that is for every org; in Prometheus' configuration: `authorization: {credentials_file: …}`.
    """
    if caller is None or caller.orgs is not None:
        raise Refusal(
            403, "This is for a key that may act for every org: kommo keys api create NAME --all-orgs."
        )
    services = services_of(request)
    try:
        text = await services.metrics.text(services.webhooks.intake.totals)
    except LookupBusyError:
        raise Refusal(503, UNAVAILABLE, {"Retry-After": str(BUSY_SECONDS)}) from None
    return Response(text, media_type=CONTENT_TYPE)


def _word(good: bool) -> Literal["ok", "failing"]:
    return "ok" if good else "failing"
