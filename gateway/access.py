"""Who asks: proven by one of the product's keys. For which org: named beside it, and one that the key is for."""

from typing import Annotated

from fastapi import Depends, Header, Query, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from pydantic import SecretStr

from blocks.names import block_name
from gateway.answers import CHALLENGE, Refusal
from gateway.services import services_of
from store.api_keys import ApiKey
from tasks.api_keys import known_api_key

ORG_HEADER = "X-Kommo-Org"

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
    """The key that a request brings, None without a good one."""
    text = bearer.credentials if bearer is not None else header
    if not text:
        return None
    services = services_of(request)
    return await known_api_key(services.database, SecretStr(text), clock=services.clock)


Caller = Annotated[ApiKey | None, Depends(find_caller)]


async def named_org(
    header: Annotated[
        str | None,
        Header(alias=ORG_HEADER, description="The org to act for: the product's tenant.", examples=["acme"]),
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
    """The org that the caller may act for.

    Raises:
        Refusal: 401 without a good key, 400 without an org, 403 if the key is not for it.
    """
    if caller is None:
        raise Refusal(401, "Unauthorized", CHALLENGE)
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
