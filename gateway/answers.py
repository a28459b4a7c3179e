"""The shapes of answers that are not good news.

On the doors that the product knew before, the body is `{"error": "…"}` with the words that the product compares;
everywhere else it is problem+json (RFC 9457). Neither ever repeats what the caller sent.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from store.errors import StoreError
from tasks.errors import DataPlaneError

SEED_PREFIXES = ("/api/v1/crm/kommo/", "/api/v1/agents/")
"""Where the doors are that the product knew before."""
SIGNED_WEBHOOKS = "/api/webhooks/kommo"
"""The one door that the product knew before and that lies elsewhere."""
PROBLEM_TYPE = "application/problem+json"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="kommo"'}
BUSY_SECONDS = 5
UNAVAILABLE = "This service cannot do its work at the moment. Try again in a little while."


class SeedError(BaseModel):
    """What went wrong, in the words that the product compares."""

    error: str = Field(description="What went wrong.", examples=["Invalid or expired state"])


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(
        default="about:blank", description="Kind of problem; `about:blank` says no more than status."
    )
    title: str = Field(description="The problem in a few words.", examples=["Not Found"])
    status: int = Field(description="The HTTP status again.", examples=[404])
    detail: str = Field(
        description="What to do about it.", examples=["The org has no connection to Kommo. Connect it first."]
    )


class ActionProblem(Problem):
    """Why an action was not done, or not asked for."""

    reason_code: str | None = Field(
        default=None,
        description="The same as a word for programs; none where the request did not come so far.",
        examples=["invalid"],
    )
    action_id: str | None = Field(
        default=None, description="The action's id, if it came so far that there is one."
    )
    field: str | None = Field(
        default=None, description="The value that is at fault, if one is.", examples=["task_type_id"]
    )


class Refusal(Exception):  # noqa: N818  it is an answer, not an accident
    """An answer that ends the work on a request.

    Args:
        status: HTTP status.
        sentence: What went wrong and what to do; never anything that the caller sent.
        headers: Further headers.
        members: Further members of the problem, for programs; not shown by a door that the product knew before.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})
        self.members = dict(members or {})
        super().__init__(sentence)


def refused(
    path: str,
    status: int,
    sentence: str,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """A refusal in the shape that its door has."""
    if path.startswith(SEED_PREFIXES) or path == SIGNED_WEBHOOKS:
        return JSONResponse({"error": sentence}, status, headers)
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=sentence)
    return JSONResponse(problem.model_dump() | dict(members or {}), status, headers, PROBLEM_TYPE)


def seed_errors(**said: tuple[int, str, list[str]]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of a seed door's errors: each a status, what it means, and the bodies it can have."""
    entries: dict[int | str, dict[str, Any]] = {}
    for status, meaning, bodies in said.values():
        examples = {str(number): {"value": {"error": body}} for number, body in enumerate(bodies, 1)}
        entries[status] = {
            "model": SeedError,
            "description": meaning,
            "content": {"application/json": {"examples": examples}},
        }
    return entries


def problems(**said: tuple[int, str, str]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of a door's problems: each a status, what it means, and an example's detail."""
    return _problems("Problem", said)


def action_problems(**said: tuple[int, str, str]) -> dict[int | str, dict[str, Any]]:
    """The same for a door of actions."""
    return _problems("ActionProblem", said)


def _problems(name: str, said: Mapping[str, tuple[int, str, str]]) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {
        status: {
            "description": meaning,
            "content": {
                PROBLEM_TYPE: {
                    "schema": schema,
                    "example": Problem(
                        title=HTTPStatus(status).phrase, status=status, detail=detail
                    ).model_dump(),
                }
            },
        }
        for status, meaning, detail in said.values()
    }


_KEYED: tuple[tuple[int, str, str], ...] = (
    (401, "No key, or not a good one.", "Unauthorized"),
    (403, "The key is for other orgs.", "This key may not act for that org."),
    (429, "The key asks too often.", "This key asks too often. Wait for as long as Retry-After says."),
    (503, "The database is away.", UNAVAILABLE),
)
_WITH_A_BODY: tuple[tuple[int, str, str], ...] = (
    (408, "The body did not come.", "The body took too long to come."),
    (413, "The body is larger than 128 KiB.", "The body is too large."),
)


def keyed_problems(*, body: bool = False) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries that all doors for the product's keys share.

    Args:
        body: Whether the door reads a body.
    """
    said = _KEYED + (_WITH_A_BODY if body else ())
    return problems(**{f"answer_{one[0]}": one for one in said})


def keyed_seed_errors(*, body: bool = False) -> dict[int | str, dict[str, Any]]:
    """The same for a door that the product knew before."""
    said = _KEYED + (_WITH_A_BODY if body else ())
    return seed_errors(
        **{f"answer_{status}": (status, meaning, [detail]) for status, meaning, detail in said}
    )


def install_error_answers(app: FastAPI) -> None:
    """Give every error of a request its shape."""
    for kind in (Refusal, RequestValidationError, HTTPException, StoreError, DataPlaneError):
        app.add_exception_handler(kind, _answer)


_MOST_FAULTS = 5


def _what_is_invalid(path: str, error: RequestValidationError) -> str:
    """Which parts of a request do not fit and why: the names of our own parameters, and nothing that was sent."""
    if path.startswith(SEED_PREFIXES[0]):
        return "Invalid request"
    faults: list[str] = []
    for fault in error.errors()[:_MOST_FAULTS]:
        kind, place = str(fault["type"]), [str(step) for step in fault["loc"]]
        if kind == "json_invalid":
            faults.append("body: this is not JSON")
        elif kind == "extra_forbidden":
            faults.append(f"{'.'.join(place[:-1])}: it has a field that is not known here")
        else:
            faults.append(f"{'.'.join(place)}: {fault['msg']}")
    return f"Invalid request. {'; '.join(faults)}."


async def _answer(request: Request, error: Exception) -> JSONResponse:
    path = request.url.path
    if isinstance(error, Refusal):
        return refused(path, error.status, error.sentence, error.headers, error.members)
    if isinstance(error, RequestValidationError):
        return refused(path, 400, _what_is_invalid(path, error))
    if isinstance(error, HTTPException):
        return refused(path, error.status_code, HTTPStatus(error.status_code).phrase, error.headers)
    # What our own errors say is meant for whoever runs this, and may name the database's address: it goes into the log.
    request.scope["state"]["fault"] = str(error)
    return refused(path, 503, UNAVAILABLE, {"Retry-After": str(BUSY_SECONDS)})
