"""One authorised API call as the route handlers see it, and the table entry that leads to them."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sandbox import errors
from sandbox.query import nested
from sandbox.state import Account, Record
from sandbox.wire import Request, Response

if TYPE_CHECKING:
    from sandbox.world import World


@dataclass(slots=True)
class Quirks:
    """How the links and pages of this one answer are to be twisted (see `sandbox.faults`).

    Args:
        repeat: So many items of the page before come again.
        rotate: The whole list is turned by so many places.
        phantom_next: The last page names a `next` that answers 204.
        link_base: Scheme and host of the links of the page, if not the account's.
    """

    repeat: int = 0
    rotate: int = 0
    phantom_next: bool = False
    link_base: str | None = None


@dataclass(slots=True)
class Call:
    """One call.

    Args:
        world: Everything around the account (clock, listeners).
        account: Whose data.
        user: The user whose rights count.
        scopes: Scopes of the token.
        request: The request as it came.
        params: Values of the placeholders of the path.
        quirks: Twists asked for by a fault.
    """

    world: "World"
    account: Account
    user: Record
    scopes: tuple[str, ...]
    request: Request
    params: dict[str, str] = field(default_factory=dict)
    quirks: Quirks = field(default_factory=Quirks)
    _nested: dict[str, Any] | None = None

    @property
    def query(self) -> dict[str, Any]:
        """The query with its brackets resolved."""
        if self._nested is None:
            self._nested = nested(self.request.query)
        return self._nested

    @property
    def with_(self) -> frozenset[str]:
        """The words of `with=`; unknown ones have no effect."""
        return frozenset(word.strip() for word in self.request.first("with").split(",") if word.strip())

    @property
    def now(self) -> int:
        """Unix seconds of the sandbox's clock."""
        return self.world.now()

    @property
    def user_id(self) -> int:
        """Who writes."""
        return int(self.user["id"])

    @property
    def entity(self) -> str:
        """The entity word of the path: leads, contacts, companies, customers."""
        return self.params["entity"]

    def number(self, name: str) -> int:
        """A whole number of the path."""
        return int(self.params[name])

    def link(self, path: str) -> dict[str, dict[str, str]]:
        """A `_links` object with `self` only.

        Args:
            path: Path under /api/v4/.
        """
        return {"self": {"href": f"{self.account.url}/api/v4/{path}"}}

    def body(self) -> object:
        """The JSON body.

        Raises:
            Problem: 400 if it is empty or no JSON.
        """
        if not self.request.body.strip():
            raise errors.empty_request()
        try:
            value = json.loads(self.request.body)
        except ValueError:
            raise errors.bad_request("Request body is not valid JSON") from None
        if value in ([], {}, None, ""):
            raise errors.empty_request()
        return value

    def optional(self) -> Record:
        """A body that may be left out: the object sent, or an empty one."""
        return self.one() if self.request.body.strip() not in {b"", b"{}", b"[]"} else {}

    def one(self) -> Record:
        """A body that must be a single object (PATCH by id, webhooks) [D].

        Raises:
            Problem: 400 for an array.
        """
        value = self.body()
        if not isinstance(value, dict):
            raise errors.validation({"0": [errors.wrong_type("", "object")]})
        return value

    def many(self, limit: int = 250) -> list[Record]:
        """A body that must be an array of objects (collection POST and PATCH) [D].

        Args:
            limit: Most elements that the call takes.

        Raises:
            Problem: 400 for an object, 422 for too many, 504 where the gateway gives up.
        """
        value = self.body()
        if not isinstance(value, list):
            raise errors.validation({"0": [errors.wrong_type("", "array")]})
        flaws = {
            str(index): [errors.wrong_type("", "object")]
            for index, element in enumerate(value)
            if not isinstance(element, dict)
        }
        if flaws:
            raise errors.validation(flaws)
        if len(value) > limit:
            raise errors.unprocessable(f"Limit {limit} entities per request")
        largest = self.world.config.max_batch
        if largest and len(value) > largest:
            raise errors.Problem(errors.bad_gateway(504))
        return value


@dataclass(frozen=True)
class Route:
    """One line of the API.

    Args:
        method: GET, POST, PATCH or DELETE.
        path: Below /api/v4/; `{id}` and the like stand for digits, `{uid}` for a word, `{entity}` for an entity.
        handler: What answers.
        admin: Administrators only (403 for others).
    """

    method: str
    path: str
    handler: Callable[[Call], Response]
    admin: bool = False

    def pattern(self) -> re.Pattern[str]:
        """The path as a regular expression over the whole path."""

        def group(match: re.Match[str]) -> str:
            name = match[1]
            if name == "entity":
                return "(?P<entity>leads|contacts|companies|customers)"
            return f"(?P<{name}>[0-9a-zA-Z_-]+)" if name == "uid" else rf"(?P<{name}>\d{{1,15}})"

        return re.compile("/api/v4/" + re.sub(r"\{(\w+)\}", group, self.path) + "/?")
