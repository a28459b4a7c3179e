"""How an org's connection stands (product-contract.md, door 14): real data, no secrets."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from gateway.access import Caller, KeyedRoute, authorized_org
from gateway.answers import CHALLENGE, Refusal, keyed_problems, problems
from gateway.services import services_of
from store.connections import ConnectionState
from store.errors import UnknownConnectionError
from store.subscriptions import SubscriptionState
from tasks.status import org_status, page_of_status

router = APIRouter(tags=["Connections"], route_class=KeyedRoute)

_NOT_CONNECTED = (
    "This org has no connection to Kommo. Open /api/v1/crm/kommo/oauth?domain=SUBDOMAIN.kommo.com for it in a browser, "
    "or run kommo connect ORG."
)


class Account(BaseModel):
    """The Kommo account."""

    id: int | None = Field(description="Kommo's id.", examples=[31234567])
    name: str | None = Field(examples=["Acme Inc"])
    host: str = Field(examples=["acme.kommo.com"])


class LastSync(BaseModel):
    """The newest reading of the account's set-up, finished or not."""

    state: str = Field(description="running, completed, failed or abandoned.", examples=["completed"])
    scope: str = Field(examples=["all"])
    started_at: datetime
    finished_at: datetime | None
    reason: str | None = Field(description="Why it failed.")


class WebhookCompleteness(BaseModel):
    """What part of the changes of a time had come by webhook, by the newest comparison with Kommo's API."""

    share: float = Field(description="From 0 to 1; what was missing has been repaired.", examples=[0.998])
    whole: bool = Field(
        description="False where something could not be compared, such as deletions that the token's user may not "
        "see: the share is that of the rest."
    )
    changes: int = Field(description="What changed, as the API says.")
    arrived: int = Field(description="Of these, what webhooks had told.")
    repaired: int = Field(description="Of these, what was missing here and has been read.")
    since: datetime
    until: datetime


class Webhooks(BaseModel):
    """How an org's webhooks stand."""

    state: SubscriptionState | None = Field(
        description="`on`; `disabled`: Kommo has switched them off; `missing`: the subscription is gone (both are put "
        "right by the next look); `off`: there is none, on purpose or because Kommo refuses it."
    )
    reason: str | None = Field(description="Why, as a sentence for people.")
    checked_at: datetime | None = Field(description="When Kommo was last asked.")
    completeness: WebhookCompleteness | None


class ConnectionStatus(BaseModel):
    """How one org's connection stands."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "org": "acme",
                "provider": "kommo",
                "state": "connected",
                "reason": None,
                "reason_code": None,
                "since": "2026-11-23T10:00:00Z",
                "account": {"id": 31234567, "name": "Acme Inc", "host": "acme.kommo.com"},
                "scopes": ["crm", "notifications"],
                "expires_at": "2026-11-24T10:00:00Z",
                "last_synced_at": "2026-11-23T10:01:00Z",
                "last_sync": {
                    "state": "completed",
                    "scope": "all",
                    "started_at": "2026-11-23T10:00:10Z",
                    "finished_at": "2026-11-23T10:01:00Z",
                    "reason": None,
                },
                "webhooks": {
                    "state": "on",
                    "reason": None,
                    "checked_at": "2026-11-23T10:30:00Z",
                    "completeness": None,
                },
            }
        }
    )
    org: str
    provider: str
    state: ConnectionState = Field(
        description="`connected` works; `refreshing` too; `degraded` works in part; `outcome_unknown` is being "
        "settled; `reauthorization_required`, `disconnected` and `failed` need a person."
    )
    reason: str | None = Field(description="Why, as a sentence for people.")
    reason_code: str | None = Field(description="Why, as a word for programs.")
    since: datetime = Field(description="When the state began.")
    account: Account
    scopes: list[str] = Field(description="What the token may do, as it says itself.")
    expires_at: datetime | None = Field(description="End of the access token; it is renewed before.")
    last_synced_at: datetime | None = Field(description="When the set-up was last read completely.")
    last_sync: LastSync | None
    webhooks: Webhooks | None = Field(description="None if nothing is known of them.")


class ConnectionPage(BaseModel):
    """Some of the connections, in the order of their orgs."""

    items: list[ConnectionStatus]
    next_after: str | None = Field(
        description="What `after` must be for the next page; None if this is the last.", examples=["acme"]
    )


@router.get(
    "/api/v1/orgs",
    summary="How all connections stand",
    response_model=ConnectionPage,
    response_description="A page of them.",
    responses={
        **keyed_problems(),
        **problems(
            bad=(
                400,
                "A parameter is not as it should be; the sentence says which.",
                "Invalid request. query.limit: Input should be less than or equal to 200.",
            )
        ),
    },
)
async def connections(
    *,
    request: Request,
    caller: Caller,
    after: Annotated[
        str | None,
        Query(
            max_length=100,
            pattern=r"^[a-z0-9-]*$",
            description="`next_after` of the page before.",
            examples=["acme"],
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="At most so many.")] = 50,
) -> ConnectionPage:
    """Every connection that the key may see, with its state, account and newest sync."""
    if caller is None:
        raise Refusal(401, "Unauthorized", CHALLENGE)
    found, next_after = await page_of_status(
        services_of(request).database, orgs=caller.orgs, after=after or None, limit=limit
    )
    return ConnectionPage(items=[_status(one) for one in found], next_after=next_after)


@router.get(
    "/api/v1/orgs/{org}/connection",
    summary="How an org's connection stands",
    response_model=ConnectionStatus,
    response_description="How it stands at this moment.",
    responses={
        **keyed_problems(),
        **problems(
            bad=(
                400,
                "The org is not written as orgs are.",
                "An org is written in lower-case letters, digits and dashes.",
            ),
            unknown=(404, "The org was never connected.", _NOT_CONNECTED),
        ),
    },
)
async def connection(
    request: Request,
    caller: Caller,
    org: Annotated[str, Path(description="The product's tenant.", examples=["acme"])],
) -> ConnectionStatus:
    """State, reason and time of one org's connection, the account it belongs to, and its newest sync."""
    org = authorized_org(caller, org)
    try:
        found = await org_status(services_of(request).database, org)
    except UnknownConnectionError:
        raise Refusal(404, _NOT_CONNECTED) from None
    return _status(found)


def _status(found: Mapping[str, Any]) -> ConnectionStatus:
    run = found["last_run"]
    return ConnectionStatus(
        **{name: found[name] for name in ConnectionStatus.model_fields if name in found},
        since=found["state_since"],
        account=Account(id=found["account_id"], name=found["account_name"], host=found["host"]),
        last_sync=None if run is None else LastSync(**{name: run[name] for name in LastSync.model_fields}),
    )
