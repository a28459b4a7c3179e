"""Who asks: proven by one of the product's keys. For which org: named beside it, and one that the key is for.

A door of a `KeyedRoute` settles both before anything else that was sent is read: without a key nobody learns what a
body should have looked like.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from pydantic import SecretStr
from starlette.requests import ClientDisconnect

from blocks.names import block_name
from gateway.answers import CHALLENGE, Refusal
from gateway.services import services_of
from store.api_keys import ApiKey
from tasks.api_keys import known_api_key

ORG_HEADER = "X-Kommo-Org"
LARGEST_JSON = 128 * 1024
"""Bytes of a body that the product sends: the longest text of an action, with every letter escaped."""
BODY_SECONDS = 10.0
"""Seconds in which it must have come."""

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="A key made by `kommo keys api create`: `Bearer kdp_…`.",
)
_header = APIKeyHeader(
    name="X-API-Key",
    auto_error=False,
    scheme_name="ApiKeyHeader",
    description="The same key in a header of its own.",
)


async def find_caller(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> ApiKey | None:
    """The key that a request brings, None without a good one.

    Raises:
        Refusal: 429 if the key has asked too often.
    """
    state = request.scope["state"]
    if "caller" not in state:
        state["caller"] = await _known(request, bearer.credentials if bearer is not None else header)
    caller: ApiKey | None = state["caller"]
    return caller


Caller = Annotated[ApiKey | None, Depends(find_caller)]


async def _known(request: Request, text: str | None) -> ApiKey | None:
    if not text:
        return None
    services = services_of(request)
    caller = await known_api_key(services.database, SecretStr(text), clock=services.clock)
    if caller is not None and (seconds := services.rates.take(caller.key_id)):
        raise Refusal(
            429,
            "This key asks too often. Wait for as long as Retry-After says.",
            {"Retry-After": str(seconds)},
        )
    return caller


class KeyedRoute(APIRoute):
    """A door that only a key opens."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]  # FastAPI's is vague
        """What answers a request."""
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            caller = await find_caller(request, await _bearer(request), await _header(request))
            if caller is None:
                raise Refusal(401, "Unauthorized", CHALLENGE)
            org = request.path_params.get("org") or await named_org(
                request.headers.get(ORG_HEADER), request.query_params.get("org")
            )
            if org is not None:
                authorized_org(caller, org)
            if request.method not in {"GET", "HEAD"}:
                await _take_body(request)
            return await handler(request)

        return guarded


async def _take_body(request: Request) -> None:
    """Read the body, which is remembered for whoever asks for it later.

    Raises:
        Refusal: It is too large, takes too long, or does not come.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.body()
    except TimeoutError:
        raise Refusal(408, "The body took too long to come.", {"Connection": "close"}) from None
    except ClientDisconnect:
        if request.scope["state"].get("too_large"):
            raise Refusal(413, "The body is too large.") from None
        raise Refusal(400, "The body did not come.") from None
    if len(body) > LARGEST_JSON:
        raise Refusal(413, "The body is too large.")


async def named_org(
    header: Annotated[
        str | None,
        Header(
            alias=ORG_HEADER,
            description="The org to act for: the product's tenant. A key that is for one org only need not name it.",
            examples=["acme"],
        ),
    ] = None,
    org: Annotated[
        str | None,
        Query(
            description=f"The org to act for, where the header {ORG_HEADER} cannot be set.", examples=["acme"]
        ),
    ] = None,
) -> str | None:
    """The org that a request names, in the header or in the query."""
    if org and header and org != header:
        raise Refusal(400, f"The query and the header {ORG_HEADER} name two different orgs.")
    return header or org or None


NamedOrg = Annotated[str | None, Depends(named_org)]


def authorized_org(caller: ApiKey | None, org: str | None) -> str:
    """The org that the caller may act for; a key that is for one org only need not name it.

    Raises:
        Refusal: 401 without a good key, 400 without an org, 403 if the key is not for it.
    """
    if caller is None:
        raise Refusal(401, "Unauthorized", CHALLENGE)
    if org is None and caller.orgs is not None and len(caller.orgs) == 1:
        org = caller.orgs[0]
    if org is None:
        raise Refusal(400, f"Name the org to act for in the header {ORG_HEADER}.")
    try:
        block_name(org)
    except ValueError as error:
        raise Refusal(400, str(error)) from None
    if not caller.allows(org):
        raise Refusal(403, "This key may not act for that org.")
    return org


def org_on_whose_behalf(caller: ApiKey | None, org: str | None) -> str | None:
    """The org that the caller speaks for, None where that is not proven."""
    return org if caller is not None and org is not None and caller.allows(org) else None
