"""What every request passes: limits, security headers, a log without query strings, errors that tell nothing.

Plain ASGI, not Starlette's `BaseHTTPMiddleware`: that one cancels work whose client has gone away, and a code that has
been sent to Kommo must not be dropped then.
"""

import logging
import random
import re
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.answers import refused
from kommo import tracing
from store.reference import REFERENCE
from tasks.errors import place_of

LONGEST_TARGET = 16 * 1024
"""Bytes of path and query; Kommo's codes have about a thousand."""
LONGEST_HEADERS = 32 * 1024
LARGEST_BODY = 1024 * 1024
_LONGEST_SHOWN = 24
_TRACED = "/api/"
"""What begins like this is a request for something; who asks whether the process lives would fill the traces."""
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")

_access = logging.getLogger("gateway.access")
_log = logging.getLogger("gateway")

_HEADERS: Mapping[str, str] = {
    # Pages bring a policy of their own, with a nonce for their one style and script.
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # The address of a callback holds the code: nobody may be told of it, and nothing may keep it.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]


def reference_of(scope: Scope) -> str:
    """The reference that the log and the answer of a request share."""
    return str(scope["state"]["reference"])


def _reference(scope: Scope) -> str:
    """The caller's id of the request if it is one that may stand anywhere, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REFERENCE.fullmatch(given):
                return str(given)
            break
    # Nobody gains by guessing it; asking the operating system for each request would cost more than its routing.
    return f"{random.getrandbits(48):012x}"


class FrontDoor:
    """The outermost layer: gives each request a reference, guards what goes out, writes the one log line.

    Args:
        app: What is inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        reference = state["reference"] = _reference(scope)
        REFERENCE.set(reference)
        if not (tracing.is_on() and scope["path"].startswith(_TRACED)):
            await self._answer(scope, receive, send)
            return
        with tracing.span(_method(scope), kind=tracing.Kind.SERVER, reference=reference, first=True) as span:
            try:
                status = await self._answer(scope, receive, send)
                if status >= 500:
                    span.failed(str(status))
                span.note({"http.response.status_code": status})
            finally:
                known = _known(scope)
                span.rename(f"{_method(scope)} {known['http.route'] or ''}".rstrip())
                span.note(known)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Let the inside answer; the status."""
        state, reference = scope["state"], reference_of(scope)
        began, status = time.perf_counter(), 0

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                if not state.get("quiet"):
                    given = {name for name, _ in headers}
                    headers += [one for one in _RAW_HEADERS if one[0] not in given]
                headers.append((b"x-request-id", reference.encode()))
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, guarded)
        except Exception as error:  # noqa: BLE001 - the last place where anything may be caught
            # Neither the text of the error nor its arguments: nobody knows what they hold.
            _log.error("%s: unexpected %s at %s", reference, type(error).__name__, place_of(error))
            if not status:
                answer = refused(
                    scope["path"],
                    500,
                    f"Something went wrong here. Quote {reference} to whoever runs this service.",
                )
                await answer(scope, receive, guarded)
        finally:
            took = (time.perf_counter() - began) * 1000
            route = scope.get("route")
            scope["app"].state.services.metrics.answered(
                None if route is None else route.path, scope["method"], status, took / 1000
            )
            if fault := state.get("fault"):
                _log.error("%s: %s", reference, fault)
            # Webhooks that were taken in are in the inbox, each with its time; the intake counts them. What guards a
            # browser is left out of their answers as well: no browser gets them, and servers that do get many.
            level = logging.DEBUG if state.get("quiet") else logging.INFO
            if _access.isEnabledFor(level):
                shown = shown_path(scope)
                _access.log(
                    level,
                    "%s %s %s %.0f ms %s",
                    _method(scope),
                    shown,
                    status,
                    took,
                    reference,
                    extra={"org": state.get("org"), "delivery": state.get("delivery")},
                )
        return status


class Limits:
    """Refuses what is too large before anybody works on it.

    Args:
        app: What is inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = _too_large(scope)
        if refusal is not None:
            await refused(scope["path"], *refusal)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > LARGEST_BODY:
                # Whoever sends without saying how much is cut off, as if the connection had broken; a door that
                # reads bodies may say why.
                scope["state"]["too_large"] = True
                return {"type": "http.disconnect"}
            return message

        await self._app(scope, counted, send)


def _too_large(scope: Scope) -> tuple[int, str] | None:
    if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > LONGEST_TARGET:
        return 414, "The address is too long."
    if sum(len(name) + len(value) for name, value in scope["headers"]) > LONGEST_HEADERS:
        return 431, "The headers are too large."
    for name, value in scope["headers"]:
        if name == b"content-length" and not (value.isdigit() and int(value) <= LARGEST_BODY):
            return 413, "The body is too large."
    return None


def shown_path(scope: Scope) -> str:
    """The path of a request as the log may show it: the door's pattern, or what was asked for with long parts left out.

    A path without a door may be a mistyped one of a door whose path holds a key.
    """
    route = scope.get("route")
    if route is not None:
        return str(route.path)
    parts = scope["path"].split("/")[:8]
    return "/".join(
        part if len(part) <= _LONGEST_SHOWN and part.isascii() and part.isprintable() else "…"
        for part in parts
    )


def _known(scope: Scope) -> tracing.Values:
    """What a trace may know of a request: the door's pattern, not its path, which may hold a key."""
    route, state = scope.get("route"), scope["state"]
    return {
        "http.request.method": _method(scope),
        "http.route": None if route is None else str(route.path),
        "kommo.reference": state["reference"],
        "kommo.org": state.get("org"),
        "kommo.delivery": state.get("delivery"),
    }


def _method(scope: Scope) -> str:
    return str(scope["method"])[:16]
