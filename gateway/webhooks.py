"""The doors for webhooks: Kommo's own, with a key in its path, and the product's, which signs what it forwards.

Plain ASGI, without FastAPI's machinery, which would cost as much as all the rest; `gateway.webhook_docs` describes both
doors for the OpenAPI document. Nothing here asks Prefect: the secret of the signed door may lie in a block, and then
that door alone has to wait for it (W4).
"""

import asyncio
import hashlib
import hmac
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

from pydantic import SecretStr
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.answers import BUSY_SECONDS, SIGNED_WEBHOOKS, UNAVAILABLE, Refusal
from gateway.intake import Capacity, Intake, TooBusyError, running_intake
from gateway.middleware import reference_of
from gateway.remembered import LookupBusyError, Remembered
from gateway.writer import running_writer
from kommo import tracing
from kommo.clock import Clock
from kommo.webhooks import BodyTooLargeError, UnreadableBodyError, is_understood, parse
from store.database import Database
from store.inbox import NewDelivery, NewEvent
from store.webhook_keys import WebhookKey, find_key, hash_of_key
from tasks.deliveries import NOBODYS, inbox_events, orgs_of_account
from tasks.subscription import KEY_KNOWN_SECONDS

KEY_DOOR = "/api/webhooks/kommo/{hook_key}"
SIGNED_DOOR = SIGNED_WEBHOOKS
BODY_SECONDS = 10.0
"""Seconds in which a body must have come; Kommo sends it at once."""
MOST_STRANGERS = 200
"""Requests at the signed door whose signature is not known to be good yet. Anybody may send there, as slowly as they
like; they must not take the places of those who come with a key."""
_SHORTEST_KEY, _LONGEST_KEY = 32, 128
_KEY_LETTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_LARGE = 64 * 1024  # bytes from which on a body is read in a thread: others need not wait for it
_LONGEST_HEADER = 300
_SIGNATURE_LETTERS = 64  # SHA-256 in hex
_KEPT = (b"user-agent", b"x-amocrm-requestid", b"content-type")
_log = logging.getLogger("gateway.webhooks")
_TOO_BUSY = [(b"content-length", b"0"), (b"retry-after", str(BUSY_SECONDS).encode())]


@dataclass
class WebhookDoors:
    """What both doors work with.

    Attributes:
        intake: Writes deliveries.
        keys: The org behind the hash of a hook key.
        orgs: The connected orgs of an account.
        secret: The key of the product's signatures; empty where there is none.
        clock: Source of time.
        told: What was said in the log already.
        strangers: Requests at the signed door whose signature was not checked yet.
    """

    intake: Intake
    keys: Remembered[str, WebhookKey | None]
    orgs: Remembered[int, tuple[str, ...]]
    secret: Callable[[], Awaitable[SecretStr]]
    clock: Clock
    told: set[str] = field(default_factory=set)
    strangers: int = 0

    @contextmanager
    def admitting_a_stranger(self) -> Iterator[None]:
        """Count a request as long as nobody knows whether it may be here.

        Raises:
            TooBusyError: There are too many of them.
        """
        if self.strangers >= MOST_STRANGERS:
            raise TooBusyError
        self.strangers += 1
        try:
            yield
        finally:
            self.strangers -= 1


@asynccontextmanager
async def open_doors(
    database: Database,
    secret: Callable[[], Awaitable[SecretStr]],
    clock: Clock,
    *,
    capacity: Capacity | None = None,
) -> AsyncIterator[WebhookDoors]:
    """Open what the doors work with; at the end, what was taken on is written.

    Args:
        database: An open database.
        secret: Gives the key of the product's signatures.
        clock: Source of time.
        capacity: What the intake takes on.
    """

    async def key(key_hash: str) -> WebhookKey | None:
        return await find_key(database, key_hash)

    async def orgs(account_id: int) -> tuple[str, ...]:
        return await orgs_of_account(database, account_id)

    async with (
        running_writer(database) as writer,
        running_intake(writer.save, clock=clock, capacity=capacity) as intake,
    ):
        # An account may be connected at this very moment, and what is nobody's is not worked by itself.
        owners = Remembered(orgs, clock, absent_seconds=0.0)
        keys = Remembered(key, clock, seconds=KEY_KNOWN_SECONDS)
        doors = WebhookDoors(intake, keys, owners, secret, clock)
        try:
            yield doors
        finally:
            await doors.keys.close()
            await doors.orgs.close()


@dataclass(frozen=True, slots=True)
class _Request:
    """The parts of a request that matter."""

    content_type: str | None
    encoded: bool
    request_id: str | None
    signature: bytes
    kept: Mapping[str, str]

    @classmethod
    def of(cls, scope: Scope) -> "_Request":
        found: dict[bytes, bytes] = dict(scope["headers"])
        kept = {
            name.decode("ascii"): found[name][:_LONGEST_HEADER].decode("latin-1")
            for name in _KEPT
            if name in found
        }
        encoding = found.get(b"content-encoding", b"identity").strip().lower()
        return cls(
            kept.get("content-type"),
            encoding not in {b"", b"identity"},
            kept.get("x-amocrm-requestid"),
            found.get(b"x-signature", b""),
            kept,
        )


class FloodGate:
    """The layer before all others: sends webhooks away while the intake is full, for as little work as it can.

    What this costs decides how many may come without slowing those that were taken on. So it says nothing but what
    counts for Kommo, and the intake counts it instead of a line in the log.

    Args:
        app: What is inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and scope["path"].startswith(SIGNED_DOOR):
            intake = scope["app"].state.services.webhooks.intake
            if intake.is_busy:
                intake.refuse()
                await send({"type": "http.response.start", "status": 503, "headers": _TOO_BUSY})
                await send({"type": "http.response.body", "body": b""})
                return
        await self._app(scope, receive, send)


class _Door:
    """What the two doors have in common."""

    path: str
    answer = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope["route"] = self  # the log shows its path, and not the one with the key
        doors: WebhookDoors = scope["app"].state.services.webhooks
        try:
            with doors.intake.admitted():
                taken: bool | None = await self._take(doors, scope, receive)
        except (TooBusyError, LookupBusyError):
            taken = None
        if taken is None:
            doors.intake.refuse()
            raise Refusal(503, UNAVAILABLE, {"Retry-After": str(BUSY_SECONDS)})
        if taken:
            scope["state"]["quiet"] = True
            headers = [(b"content-length", str(len(self.answer)).encode())]
            if self.answer:
                headers.append((b"content-type", b"application/json"))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self.answer})

    async def _take(self, doors: WebhookDoors, scope: Scope, receive: Receive) -> bool:
        """Take a request in; False if the client has gone away before it had said all."""
        raise NotImplementedError


class KeyDoor(_Door):
    """Kommo's own webhooks: unsigned, so the key in the path says whose they are.

    Kommo looks at the status only, and an empty answer is one system call less.
    """

    path = KEY_DOOR

    async def _take(self, doors: WebhookDoors, scope: Scope, receive: Receive) -> bool:
        key = await _known_key(doors, scope["path_params"]["hook_key"])
        request = _Request.of(scope)
        _check_type(request)
        body = await _read_body(scope, receive)
        if body is None:
            return False
        with doors.intake.holding(len(body)):
            read = await _read(body, request)
            if key.account_id is not None and read.account_id not in {None, key.account_id}:
                _log.warning("a delivery of account %s came by the key of %s", read.account_id, key.org)
                raise Refusal(400, "The body is not of the account that this address is for.")
            scope["state"]["org"] = key.org
            made = _delivery(doors, request, read, door="key", org=key.org, reference=reference_of(scope))
            scope["state"]["delivery"] = made.delivery_id
            await _put(doors, [made])
        return True


class SignedDoor(_Door):
    """What the product forwards: JSON, signed with the webhook secret, for whichever orgs the account belongs to."""

    path = SIGNED_DOOR
    answer = b'{"received":true}'

    async def _take(self, doors: WebhookDoors, scope: Scope, receive: Receive) -> bool:
        request = _Request.of(scope)
        with doors.admitting_a_stranger():
            secret = await _secret(doors)
            # What cannot be a signature is none, whatever comes with it.
            body = await _read_body(scope, receive) if secret and _may_be(request.signature) else b""
            if body is None:
                return False
            _check_signature(secret, request, body)
        with doors.intake.holding(len(body)):
            _check_type(request)
            read = await _read(body, request)
            orgs: tuple[str, ...] = ()
            if read.account_id is not None:
                orgs = await doors.orgs.get(read.account_id)
            if not orgs:
                # Nobody's. It is kept all the same: whoever looks for it finds it, with the reason.
                orgs, read = ("",), read.without_org()
            reference = reference_of(scope)
            await _put(
                doors,
                [
                    _delivery(doors, request, read, door="signed", org=org, reference=reference)
                    for org in orgs
                ],
            )
        return True


ROUTES = [
    Route(KEY_DOOR, KeyDoor(), methods=["POST"]),
    Route(SIGNED_DOOR, SignedDoor(), methods=["POST"]),
]


@dataclass(frozen=True, slots=True)
class _Read:
    """What a body says, or why it says nothing."""

    body: bytes = field(repr=False)
    account_id: int | None
    events: tuple[NewEvent, ...]
    reason: str | None = None

    def without_org(self) -> "_Read":
        return _Read(self.body, self.account_id, (), self.reason or NOBODYS)


async def _known_key(doors: WebhookDoors, text: str) -> WebhookKey:
    """The key of a path; what cannot be one is not even looked for, and answered alike."""
    if _SHORTEST_KEY <= len(text) <= _LONGEST_KEY and _KEY_LETTERS.issuperset(text):
        key = await doors.keys.get(hash_of_key(text))
        if key is not None:
            return key
    raise Refusal(404, "Not Found")


async def _secret(doors: WebhookDoors) -> bytes:
    secret = (await doors.secret()).get_secret_value().encode()
    if not secret and "secret" not in doors.told:
        doors.told.add("secret")
        _log.error(
            "A signed webhook was refused, because no webhook secret is set. Set KOMMO_WEBHOOK_SECRET, or fill the "
            "Kommo App block, if the product forwards webhooks."
        )
    return secret


def _may_be(signature: bytes) -> bool:
    return len(signature.strip()) == _SIGNATURE_LETTERS


def _check_signature(secret: bytes, request: _Request, body: bytes) -> None:
    wanted = hmac.new(secret or b"-", body, hashlib.sha256).hexdigest().encode()
    if not (hmac.compare_digest(wanted, request.signature.strip().lower()) and secret):
        raise Refusal(401, "Invalid signature")


def _check_type(request: _Request) -> None:
    if request.encoded or not is_understood(request.content_type):
        raise Refusal(415, "The body must be a form or JSON, and not compressed.")


async def _read_body(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body; None if the client has gone away.

    Raises:
        Refusal: It is too large, or takes too long.
    """
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        return bytes(message.get("body", b""))
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while message["type"] == "http.request":
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    return b"".join(parts)
                message = await receive()
    except TimeoutError:
        raise Refusal(408, "The body took too long to come.", {"Connection": "close"}) from None
    if scope["state"].get("too_large"):
        raise Refusal(413, "The body is too large.")
    return None


async def _read(body: bytes, request: _Request) -> _Read:
    if len(body) > _LARGE:
        return await asyncio.to_thread(_parsed, body, request)
    return _parsed(body, request)


def _parsed(body: bytes, request: _Request) -> _Read:
    try:
        told = parse(body, request.content_type, request_id=request.request_id)
    except BodyTooLargeError:
        raise Refusal(413, "The body is too large.") from None
    except UnreadableBodyError as error:
        return _Read(body, None, (), str(error))
    except Exception as error:  # noqa: BLE001 - whatever a body does to us, it is kept
        _log.error("a body could not be read (%s)", type(error).__name__)
        return _Read(
            body, None, (), f"Reading it failed ({type(error).__name__}). That is a fault of this program."
        )
    return _Read(body, told.account_id, inbox_events(told))


async def _put(doors: WebhookDoors, made: Sequence[NewDelivery]) -> None:
    """Have deliveries written, and let a trace show how long that took."""
    with tracing.span("inbox.commit", {"kommo.events": sum(len(one.events) for one in made)}):
        await doors.intake.put(made)


def _delivery(
    doors: WebhookDoors, request: _Request, read: _Read, *, door: str, org: str, reference: str
) -> NewDelivery:
    return NewDelivery(
        # Unique, not secret: Python's generator is seeded anew in each process, and costs no system call.
        delivery_id=f"{random.getrandbits(128):032x}",
        org=org,
        account_id=read.account_id,
        door=door,
        received_at=doors.clock.now(),
        content_type=request.content_type,
        headers=request.kept,
        request_id=request.request_id,
        body=read.body,
        events=read.events,
        reason=read.reason,
        reference=reference,
    )
