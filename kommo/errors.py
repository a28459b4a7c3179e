"""What can go wrong with Kommo, in one table: whose fault it is, whether to try again, what to do.

Facts: kommo-api.md §2.3 (status codes and bodies), §1.6 (OAuth bodies), §2.4 (limits). No text here, and so
no message of any error, ever holds a token, a query string or a body: they are built from the kind, the path
and our own words only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Self


class ErrorKind(StrEnum):
    """Each way in which talking to Kommo can fail; the words are stable: machines compare them."""

    HOST_NOT_ALLOWED = "host_not_allowed"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    REDIRECTED = "redirected"
    VALIDATION = "validation"
    OAUTH_REFUSED = "oauth_refused"
    UNAUTHORIZED = "unauthorized"
    PAYMENT_REQUIRED = "payment_required"
    FORBIDDEN = "forbidden"
    IP_BLOCKED = "ip_blocked"
    NO_ACCOUNT = "no_account"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    LIMIT = "limit"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    GATEWAY = "gateway"
    UNEXPECTED_STATUS = "unexpected_status"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNSTABLE_LISTING = "unstable_listing"
    ENDLESS_LISTING = "endless_listing"
    BUDGET_BLOCKED = "budget_blocked"
    TOO_BUSY = "too_busy"
    HOOK_UNREADABLE = "hook_unreadable"
    HOOK_TOO_LARGE = "hook_too_large"


class Then(StrEnum):
    """What can be done about an error."""

    RETRY = "retry"
    """The same request may succeed later without anybody doing anything."""
    PERSON = "person"
    """It stays so until a person acts."""
    CALLER = "caller"
    """The caller must ask for something else, or at another time."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One row of the table of errors.

    Attributes:
        when: The HTTP statuses, or the situation, that lead to this kind.
        then: What can be done about it.
        what: What happened; ``{request}`` stands for method, path and host.
        advice: Whose fault it is and what to do next.
        source: Where the fact comes from.
    """

    when: str
    then: Then
    what: str
    advice: str
    source: str


FACTS: Mapping[ErrorKind, Fact] = MappingProxyType(
    {
        ErrorKind.HOST_NOT_ALLOWED: Fact(
            "before sending", Then.PERSON,
            "This is not the address of a Kommo account.",
            "Give the account's own address, such as acme.kommo.com, acme.amocrm.com or acme.amocrm.ru.",
            "[D K/limitations; §1.3 on forged referers]",
        ),
        ErrorKind.UNREACHABLE: Fact(
            "no connection, or it broke", Then.RETRY,
            "{request}: the connection to Kommo could not be made or broke.",
            "The network or Kommo is at fault; try again, and look at DNS, proxy and firewall if it stays.",
            "[I]",
        ),
        ErrorKind.TIMEOUT: Fact(
            "no answer in time, 408", Then.RETRY,
            "{request}: Kommo did not answer in time.",
            "Kommo or the network is slow; try again later.",
            "[C PHP: connect 5 s, total 20 s]",
        ),
        ErrorKind.REDIRECTED: Fact(
            "3xx", Then.PERSON,
            "{request}: Kommo answered with a redirect; it is not followed, the token belongs to one host.",
            "The account may have been renamed; connect it again with its present address.",
            "[C PHP: moved accounts, §1.6]",
        ),
        ErrorKind.VALIDATION: Fact(
            "400", Then.CALLER,
            "{request}: Kommo refused what was sent as invalid.",
            "The request is at fault; correct the named places (ids may have changed).",
            "[D K/http-codes; C]",
        ),
        ErrorKind.OAUTH_REFUSED: Fact(
            "400 or 401 with a hint", Then.PERSON,
            "{request}: Kommo refused the authorization.",
            "Unless our settings are wrong or another process has just refreshed the token, the account must be "
            "authorized again.",
            "[C G#123, G#315; §1.6]",
        ),
        ErrorKind.UNAUTHORIZED: Fact(
            "401", Then.PERSON,
            "{request}: Kommo does not accept the access token.",
            "It has expired, was revoked, or belongs to another account; connect it again (kommo connect ORG).",
            "[D K/http-codes]",
        ),
        ErrorKind.PAYMENT_REQUIRED: Fact(
            "402", Then.PERSON,
            "{request}: the Kommo account is not paid for, or its plan does not have this function.",
            "The owner of the account must pay or change the plan.",
            "[D K/http-codes]",
        ),
        ErrorKind.FORBIDDEN: Fact(
            "403 with a JSON body", Then.PERSON,
            "{request}: the user of this token may not do this.",
            "An administrator of the Kommo account must authorize it, or its scopes be widened.",
            "[D K/http-codes]",
        ),
        ErrorKind.IP_BLOCKED: Fact(
            "403 with a plain or HTML body", Then.CALLER,
            "{request}: Kommo blocks the address from which we call.",
            "Too many requests came from it; all stops for a while; write to Kommo if it stays.",
            "[D K/limitations; how long a block lasts is not documented]",
        ),
        ErrorKind.NO_ACCOUNT: Fact(
            "404 for the account itself", Then.PERSON,
            "{request}: there is no Kommo account at this address.",
            "Check how the address is written: it is the one that the browser shows when the account is open.",
            "[D K/http-codes; I]",
        ),
        ErrorKind.NOT_FOUND: Fact(
            "404", Then.CALLER,
            "{request}: Kommo knows neither this path nor this item.",
            "The item was deleted, or this account does not have the function.",
            "[D K/http-codes]",
        ),
        ErrorKind.METHOD_NOT_ALLOWED: Fact(
            "405", Then.CALLER,
            "{request}: Kommo does not offer this method on this path.",
            "This is a fault of the program; report it.",
            "[D; C G#329]",
        ),
        ErrorKind.LIMIT: Fact(
            "422", Then.CALLER,
            "{request}: the request is well-formed, but the state of the account or a limit forbids it.",
            "At most 250 items go into one request or page, and a closed talk takes no message.",
            "[D K/http-codes]",
        ),
        ErrorKind.RATE_LIMITED: Fact(
            "429", Then.RETRY,
            "{request}: Kommo asks us to send fewer requests.",
            "Everyone on this account slows down by itself; lower the limit if it happens often.",
            "[D K/http-codes]",
        ),
        ErrorKind.SERVER_ERROR: Fact(
            "500, 503 and other 5xx", Then.RETRY,
            "{request}: Kommo failed inside.",
            "Kommo is at fault; try again later.",
            "[D K/http-codes]",
        ),
        ErrorKind.GATEWAY: Fact(
            "502, 504", Then.RETRY,
            "{request}: Kommo's gateway got no answer from behind it.",
            "Kommo is at fault; try again later, with fewer items in one request if it stays.",
            "[D K/limitations]",
        ),
        ErrorKind.UNEXPECTED_STATUS: Fact(
            "any other status", Then.CALLER,
            "{request}: Kommo gave an answer that is not documented.",
            "Report it together with the status and the request id.",
            "[I]",
        ),
        ErrorKind.MALFORMED: Fact(
            "2xx with an unreadable body", Then.RETRY,
            "{request}: Kommo's answer cannot be read.",
            "It was cut off, or something between us and Kommo changed it; try again.",
            "[C]",
        ),
        ErrorKind.TOO_LARGE: Fact(
            "2xx with an oversized body", Then.CALLER,
            "{request}: Kommo's answer is larger than this program accepts.",
            "Ask for fewer items in one page.",
            "[I]",
        ),
        ErrorKind.UNSTABLE_LISTING: Fact(
            "a listing that keeps changing", Then.RETRY,
            "{request}: the list changed on each of several readings, so there is no whole picture of it.",
            "Somebody is editing the account at this moment; nothing was saved, try again later.",
            "[D K/limitations, §2.5: pages shift]",
        ),
        ErrorKind.ENDLESS_LISTING: Fact(
            "a listing without end", Then.CALLER,
            "{request}: the pages of this list lead back to pages already read, or never end.",
            "Kommo is at fault; nothing was saved, report it if it stays.",
            "[I]",
        ),
        ErrorKind.BUDGET_BLOCKED: Fact(
            "before sending", Then.CALLER,
            "{request}: nothing is sent, because requests for this account or address are stopped.",
            "Wait until the stop ends, or lift it once its reason is gone.",
            "[§2.4]",
        ),
        ErrorKind.TOO_BUSY: Fact(
            "before sending", Then.RETRY,
            "{request}: this process was too busy to keep the moments at which it may send.",
            "The machine is overloaded; run fewer things at once in one process.",
            "[I]",
        ),
        ErrorKind.HOOK_UNREADABLE: Fact(
            "a webhook that came in", Then.CALLER,
            "The body of a webhook cannot be read.",
            "Whoever sent it is at fault: Kommo sends a form, or the product JSON, with the account and what changed.",
            "[D K/webhooks-general; §6]",
        ),
        ErrorKind.HOOK_TOO_LARGE: Fact(
            "a webhook that came in", Then.CALLER,
            "The body of a webhook is larger than this program accepts.",
            "Whoever sent it is at fault, or the limit is too low for this account.",
            "[I; Kommo names no largest body, §10]",
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """One complaint of a 400 answer.

    Attributes:
        code: Kommo's word, such as ``NotSupportedChoice``.
        path: Dotted place inside the element, such as ``custom_fields_values.0.field_id``.
        detail: Kommo's sentence.
        element: The ``request_id`` of the element, by default its index in the list that was sent.
    """

    code: str
    path: str
    detail: str
    element: str = ""


class KommoError(Exception):
    """Something went wrong between us and Kommo; ``str(error)`` says what, whose fault it is and what to do.

    Args:
        kind: Which row of ``FACTS`` this is.
        method: HTTP method, if a request was meant.
        path: Path without query.
        host: Name of the account's host.
        status: HTTP status, if there was an answer.
        request_id: Kommo's ``X-Request-Id``.
        problems: The complaints of a 400 answer.
        hint: The ``hint`` of an OAuth error body.
        retry_after: Seconds after which Kommo, or a stop of our own, allows the next request.
        outcome_unknown: A write was sent and nobody knows whether it took effect.
        detail: A half-sentence of our own; never text that came over the network.
    """

    def __init__(
        self,
        kind: ErrorKind,
        *,
        method: str | None = None,
        path: str | None = None,
        host: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        problems: Sequence[Problem] = (),
        hint: str | None = None,
        retry_after: float | None = None,
        outcome_unknown: bool = False,
        detail: str | None = None,
    ) -> None:
        self.kind = kind
        self.method = method
        self.path = path.partition("?")[0] if path else None
        self.host = host
        self.status = status
        self.request_id = request_id
        self.problems = tuple(problems)
        self.hint = hint
        self.retry_after = retry_after
        self.outcome_unknown = outcome_unknown
        self.detail = detail
        super().__init__(self.sentence)

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without anybody doing anything."""
        return FACTS[self.kind].then is Then.RETRY

    @property
    def final(self) -> bool:
        """Whether it stays so until a person acts."""
        return FACTS[self.kind].then is Then.PERSON

    @property
    def sentence(self) -> str:
        """What happened, whose fault it is and what to do next."""
        fact = FACTS[self.kind]
        request = " ".join(word for word in (self.method, self.path) if word) or "A request"
        if self.host:
            request += f" at {self.host}"
        parts = [fact.what.format(request=request)]
        if self.detail:
            parts.append(f"{self.detail[0].upper()}{self.detail[1:].rstrip('.')}.")
        if self.problems:
            shown = ", ".join(f"{p.code} at {p.path or 'the top'}" for p in self.problems[:3])
            more = len(self.problems) - 3
            parts.append(f"Complaints: {shown}{f' and {more} more' if more > 0 else ''}.")
        if self.outcome_unknown:
            parts.append("Whether the write took effect is not known: look it up before sending it again.")
        parts.append(fact.advice)
        numbers = [
            f"status {self.status}" if self.status else "",
            f"request id {self.request_id}" if self.request_id else "",
        ]
        known = ", ".join(number for number in numbers if number)
        return " ".join(parts) + (f" ({known})" if known else "")

    def as_no_account(self) -> "KommoError":
        """Return this error, or that there is no account, if it is a 404 for the account itself."""
        if self.kind is not ErrorKind.NOT_FOUND:
            return self
        return KommoError(
            ErrorKind.NO_ACCOUNT,
            method=self.method,
            path=self.path,
            host=self.host,
            status=self.status,
            request_id=self.request_id,
        )

    def with_unknown_outcome(self) -> Self:
        """Return this error, marked as that of a write whose effect nobody knows."""
        self.outcome_unknown = True
        self.args = (self.sentence,)
        return self

    def with_detail(self, detail: str) -> Self:
        """Return this error, with a half-sentence of our own in it.

        Args:
            detail: The half-sentence; never text that came over the network.
        """
        self.detail = detail
        self.args = (self.sentence,)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process boundaries (task runners, logs); the default would lose the keywords.
        return _rebuild, (type(self), dict(self.__dict__))


def _rebuild(cls: type[KommoError], fields: dict[str, Any]) -> KommoError:
    error = cls.__new__(cls)
    error.__dict__.update(fields)
    error.args = (error.sentence,)
    return error


class HostNotAllowed(KommoError, ValueError):  # noqa: N818  the name says it
    """The text is not the address of a Kommo account; a ``ValueError`` too, for pydantic's validators.

    Args:
        why: A half-sentence about what is wrong; never the text itself, which may hold a password.
    """

    def __init__(self, why: str) -> None:
        super().__init__(ErrorKind.HOST_NOT_ALLOWED, detail=why)
