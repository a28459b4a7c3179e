"""Kommo's error answers, word for word where a published one exists (fact sheet 2.3, samples `err_*`).

A handler raises `Problem`; the application turns it into the answer. OAuth errors have a shape of their own and
live in `sandbox.oauth`.
"""

import uuid
from dataclasses import dataclass
from typing import Any

from sandbox.wire import PROBLEM, Response, dumps

_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
}


class Problem(Exception):  # noqa: N818 - Kommo calls the document so
    """An error answer on its way out.

    Args:
        response: What the client will get.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(f"HTTP {response.status}")
        self.response = response


@dataclass(frozen=True)
class Flaw:
    """One finding inside one element of a write.

    Args:
        code: Kommo's word, e.g. NotSupportedChoice.
        path: Dotted path inside the element, e.g. custom_fields_values.0.field_id.
        detail: Kommo's sentence.
    """

    code: str
    path: str
    detail: str


def unsupported(path: str) -> Flaw:
    """An id, enum or name that the account does not know [C R#60867460908 and issue G#21]."""
    return Flaw("NotSupportedChoice", path, "The value you selected is not a valid choice.")


def wrong_type(path: str, expected: str) -> Flaw:
    """A value of the wrong JSON type [D K/http-codes]."""
    return Flaw("InvalidType", path, f"This value should be of type {expected}.")


def missing(path: str) -> Flaw:
    """A required key that was not sent [C R#60867460908]."""
    return Flaw("FieldMissing", path, "This field is missing.")


def problem(status: int, detail: str, **extra: object) -> Response:
    """The ordinary problem document [D K/http-codes].

    Args:
        status: HTTP status, one of the documented ones.
        detail: The sentence that differs from case to case.
        extra: Further keys, put after the standard ones.
    """
    body: dict[str, object] = {
        "title": _TITLES[status],
        "type": f"https://httpstatus.es/{status}",
        "status": status,
        "detail": detail,
    }
    return Response(status, dumps(body | extra), PROBLEM)


def empty_request() -> Problem:
    """400 for an empty body [D]."""
    return Problem(problem(400, "Request data can not be empty"))


def bad_request(detail: str) -> Problem:
    """400 without a list of findings."""
    return Problem(problem(400, detail))


def validation(findings: dict[str, list[Flaw]]) -> Problem:
    """400 with `validation-errors`; one finding fails the whole request [D, I].

    Args:
        findings: Findings by request id (the client's own, or the index of the element as text).
    """
    errors: list[dict[str, Any]] = [
        {
            "request_id": request_id,
            "errors": [{"code": flaw.code, "path": flaw.path, "detail": flaw.detail} for flaw in flaws],
        }
        for request_id, flaws in findings.items()
        if flaws
    ]
    body = {
        "validation-errors": errors,
        "title": "Bad Request",
        "type": "https://httpstatus.es/400",
        "status": 400,
        "detail": "Request validation failed",
    }
    return Problem(Response(400, dumps(body), PROBLEM))


def unauthorized() -> Response:
    """401: token unknown, expired, revoked, or of another account [D]."""
    return problem(401, "Invalid user name or password")


def payment_required(detail: str = "Payment required") -> Response:
    """402: the plan does not cover it, or is over [D]."""
    return problem(402, detail)


def forbidden(detail: str = "Forbidden") -> Response:
    """403 for missing rights (problem document, unlike the block of an IP) [D]."""
    return problem(403, detail)


def not_found(method: str, url: str) -> Response:
    """404 for a path that does not exist [D]."""
    return problem(404, f"Cannot {method} {url}")


def entity_not_found() -> Problem:
    """404 for an unknown id where Kommo answers 404 (talks, webhooks, unsorted) [D]."""
    return Problem(problem(404, "Requested entity not found"))


def method_not_allowed() -> Response:
    """405 [D]."""
    return problem(405, "Method Not Allowed")


def unprocessable(detail: str) -> Problem:
    """422 [D]."""
    return Problem(problem(422, detail))


def too_many_requests(retry_after: float, *, html: bool = False) -> Response:
    """429, as JSON with `retry_after` in the body, or as a page of the gateway [D, C PHP].

    Args:
        retry_after: Seconds.
        html: Answer as the gateway does, without JSON.
    """
    if html:
        return _page(429, "429 Too Many Requests")
    shown = int(retry_after) if float(retry_after).is_integer() else retry_after
    detail = "You have sent too many requests in a given amount of time. Please try again later."
    return problem(429, detail, retry_after=shown)


def internal_error() -> Response:
    """500; it has a trace id and no `type` [D]."""
    body = {
        "title": "ErrInternalServer",
        "status": 500,
        "detail": "Our team are probably already working on this",
        "trace_id": uuid.uuid4().hex,
    }
    return Response(500, dumps(body), PROBLEM)


def bad_gateway(status: int = 502) -> Response:
    """502 or 504, HTML from the gateway [D K/limitations, I]."""
    return _page(status, "502 Bad Gateway" if status == 502 else "504 Gateway Time-out")


def ip_blocked() -> Response:
    """403 on everything: the IP is blocked; a page, not JSON [D, C G#563]."""
    return _page(403, "403 Forbidden")


def _page(status: int, title: str) -> Response:
    text = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Response(status, text.encode(), "text/html")
