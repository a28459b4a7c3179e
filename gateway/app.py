"""The application: doors, layers and their order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from blocks.app import CALLBACK_PATH
from blocks.settings import Settings
from gateway import actions, agents, crm, health, hooks, orgs, snapshots, webhooks
from gateway.answers import ActionProblem, Problem, install_error_answers, problems, seed_errors
from gateway.middleware import FrontDoor, Limits
from gateway.services import Services, open_services
from gateway.webhook_docs import webhook_paths

_DESCRIPTION = """\
The HTTP door between the product and its customers' Kommo accounts.

**Who asks** is proven by a key (`kommo keys api create`), sent as `Authorization: Bearer kdp_…` or `X-API-Key`.
**For which org** is named beside it, in the header `X-Kommo-Org`; a key may be limited to some orgs, and one for a
single org need not name it. **How often** a key may ask is limited (429 with `Retry-After`).

**Errors**: under `/api/v1/crm/kommo/` and `/api/v1/agents/` the body is `{"error": "…"}`, elsewhere problem+json
(RFC 9457). Every answer carries `X-Request-Id`, by which the log of this service knows the request; only a webhook that
is sent away in a flood gets a bare 503.
"""


_VALIDATION = "HTTPValidationError"
_LONG = "The address is too long."
_LARGE = "The headers are too large."
_BROKEN = "Something went wrong here. Quote 0a1b2c3d4e5f to whoever runs this service."
_LIMITS_OF_SEED_DOORS = seed_errors(
    long=(414, "The address is too long.", [_LONG]),
    large=(431, "The headers are too large.", [_LARGE]),
    broken=(500, "A fault of this service.", [_BROKEN]),
)
_LIMITS = problems(
    long=(414, "The address is too long.", _LONG),
    large=(431, "The headers are too large.", _LARGE),
    broken=(500, "A fault of this service.", _BROKEN),
)


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
        # Its own traces would hold paths with keys, and queries with codes: ours are in gateway.middleware.
        telemetry={"tracing": False, "logs": False, "auto_configure": False},
        # What a door is called in the document is what its function is called here: clients are made from it.
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
    )
    app.router.routes.extend(webhooks.ROUTES)  # first: most requests are for them
    for router in (crm.router, hooks.router, agents.router):
        app.include_router(router, responses=_LIMITS_OF_SEED_DOORS)
    for router in (orgs.router, snapshots.router, actions.router, health.router, health.metrics_router):
        app.include_router(router, responses=_LIMITS)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]  # FastAPI's own way to change it
    install_error_answers(app)
    app.add_middleware(Limits)
    app.add_middleware(FrontDoor)
    app.add_middleware(webhooks.FloodGate)  # the last one added is the outermost
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, true to what is answered: a parameter that does not fit is a 400 here, never a 422."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            license_info=app.license_info,
            routes=app.routes,
        )
        document["paths"] |= webhook_paths(_LIMITS_OF_SEED_DOORS, _LIMITS)
        for methods in document["paths"].values():
            for operation in methods.values():
                if _VALIDATION in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        # A browser brings a cookie instead of a key.
        document["paths"][CALLBACK_PATH]["get"]["security"].append({})
        schemas = document["components"]["schemas"]
        for name in (_VALIDATION, "ValidationError"):
            schemas.pop(name, None)
        for model in (Problem, ActionProblem):
            schemas[model.__name__] = model.model_json_schema()
        app.openapi_schema = document
    return app.openapi_schema
