"""The application: doors, layers and their order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from blocks.settings import Settings
from gateway import crm, health, hooks, orgs
from gateway.answers import install_error_answers
from gateway.middleware import FrontDoor, Limits
from gateway.services import Services, open_services

_DESCRIPTION = """\
The HTTP door between the product and its customers' Kommo accounts.

**Who asks** is proven by a key (`kommo keys api create`), sent as `Authorization: Bearer kdp_…` or `X-API-Key`.
**For which org** is named beside it, in the header `X-Kommo-Org`; a key may be limited to some orgs.

**Errors**: under `/api/v1/crm/kommo/` the body is `{"error": "…"}`, elsewhere problem+json (RFC 9457). Every answer
carries `X-Request-Id`, by which the log of this service knows the request.
"""


def create_app(settings: Settings | None = None, *, services: Services | None = None) -> FastAPI:
    """The gateway as an ASGI application.

    Args:
        settings: This installation; by default what the environment says.
        services: What the doors work with, already open; by default opened when the application starts, and closed when
            it stops.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if services is not None:
            app.state.services = services
            yield
            return
        async with open_services(settings or Settings()) as opened:
            app.state.services = opened
            yield

    app = FastAPI(
        title="Kommo data plane",
        summary="Connect Kommo accounts, and see how they stand.",
        description=_DESCRIPTION,
        version=version("kommo-data-plane"),
        license_info={"name": "MIT", "identifier": "MIT"},
        # The viewers that FastAPI has load their scripts from elsewhere; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    for router in (crm.router, hooks.router, orgs.router, health.router):
        app.include_router(router)
    install_error_answers(app)
    app.add_middleware(Limits)
    app.add_middleware(FrontDoor)  # the last one added is the outermost
    return app
