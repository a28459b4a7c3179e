"""Which lists Kommo has, where they are and what is peculiar about each; no other module knows a path.

Facts: kommo-api.md §2.5 (paging and totals), §2.6 (``with`` and ``order``), §3 (entities); the tag of each
row says where it comes from. Rows state only what those sources say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Resource:
    """One list (or single object) of the API.

    Attributes:
        name: Our word for it.
        path: Path under the account's host.
        embedded: Key under ``_embedded`` that holds the items; ``None`` for a single object.
        page_size: ``limit`` to ask for, the largest that is allowed.
        order: (field, direction) to ask for, so that pages shift as little as they can; ``None`` if none is
            documented.
        with_: Extras to ask for in ``with``.
        paged: ``page`` and ``limit`` are understood; otherwise everything comes at once.
        id_key: Key of an item that tells it from the others.
        totals: ``_total_items`` is given, so that a reading can be proved whole.
        admin_only: Users who are not administrators get 403.
        absent_statuses: Statuses that mean "this account has none of it", not a failure.
        source: Where the facts come from.
    """

    name: str
    path: str
    embedded: str | None
    page_size: int = 250
    order: tuple[str, str] | None = None
    with_: tuple[str, ...] = ()
    paged: bool = True
    id_key: str = "id"
    totals: bool = False
    admin_only: bool = False
    absent_statuses: frozenset[int] = _NONE
    source: str = ""

    def params(self) -> list[tuple[str, str]]:
        """The query of the first page."""
        query: list[tuple[str, str]] = []
        if self.paged:
            query += [("page", "1"), ("limit", str(self.page_size))]
        if self.order:
            query.append((f"order[{self.order[0]}]", self.order[1]))
        if self.with_:
            query.append(("with", ",".join(self.with_)))
        return query


def _fields(entity: str) -> Resource:
    return Resource(
        name=f"{entity}_custom_fields",
        path=f"/api/v4/{_PLURALS[entity]}/custom_fields",
        embedded="custom_fields",
        order=("id", "asc"),
        totals=True,
        source="[D A/custom-fields; order §2.6; 50 a page by default §2.5]",
    )


def _tags(entity: str) -> Resource:
    plural = _PLURALS[entity]
    return Resource(f"{entity}_tags", f"/api/v4/{plural}/tags", "tags", source="[D K, A tags-api; §3.11]")


def _notes(entity: str) -> Resource:
    return Resource(
        f"{entity}_notes",
        f"/api/v4/{_PLURALS[entity]}/notes",
        "notes",
        order=("id", "asc"),
        source="[D §3.9; order §2.6]",
    )


def _entities(name: str, *with_: str, source: str, order: tuple[str, str] | None = ("id", "asc")) -> Resource:
    return Resource(name, f"/api/v4/{name}", name, order=order, with_=with_, source=source)


_PLURALS = {"lead": "leads", "contact": "contacts", "company": "companies"}

_ROWS = (
    Resource(
        "account",
        "/api/v4/account",
        embedded=None,
        with_=("amojo_id", "users_groups", "task_types", "version", "datetime_settings", "drive_url"),
        paged=False,
        source="[D K/account; §3.1]",
    ),
    Resource(
        "pipelines", "/api/v4/leads/pipelines", "pipelines", paged=False, totals=True, source="[D §3.3]"
    ),
    _fields("lead"),
    _fields("contact"),
    _fields("company"),
    Resource(
        "users",
        "/api/v4/users",
        "users",
        with_=("role", "group"),
        totals=True,
        admin_only=True,
        source="[D §3.2]",
    ),
    Resource(
        "roles",
        "/api/v4/roles",
        "roles",
        totals=True,
        admin_only=True,
        absent_statuses=frozenset({404}),
        source="[D §2.5; rights I]",
    ),
    Resource(
        "loss_reasons",
        "/api/v4/leads/loss_reasons",
        "loss_reasons",
        source="[C PHP, several clients; 204 when none; §3.5]",
    ),
    Resource(
        "sources",
        "/api/v4/sources",
        "sources",
        paged=False,
        totals=True,
        absent_statuses=frozenset({403, 404}),
        source="[D §3.12: the integration's own only; needs a widget location]",
    ),
    Resource(
        "talks",
        "/api/v4/talks",
        "talks",
        id_key="talk_id",
        absent_statuses=frozenset({403, 404, 405}),
        source="[D K/talks, newest first, added 2026-07-01; amoCRM has no list; §3.15]",
    ),
    Resource(
        "channels",
        "/api/v4/channels",
        "channels",
        paged=False,
        absent_statuses=frozenset({403, 404, 405}),
        source="[I strong: does not exist at Kommo; §3.13]",
    ),
    _entities(
        "leads", "contacts", "loss_reason", "source_id", "catalog_elements", source="[D K/leads-list; §3.5]"
    ),
    _entities("contacts", "leads", source="[D §3.6]"),
    _entities("companies", "contacts", "leads", source="[D §3.6]"),
    _entities("tasks", source="[D §3.8]"),
    Resource("events", "/api/v4/events", "events", page_size=100, source="[D: limit 100 at most; §3.10]"),
    _notes("lead"),
    _notes("contact"),
    _notes("company"),
    Resource(
        "customers",
        "/api/v4/customers",
        "customers",
        order=("id", "asc"),
        absent_statuses=frozenset({403, 404}),
        source="[D A; order I: as the other entities; accounts may have none of it §3.1]",
    ),
    Resource(
        "catalogs",
        "/api/v4/catalogs",
        "catalogs",
        absent_statuses=frozenset({403, 404}),
        source="[D §2.4: at most ten; §6.3]",
    ),
    Resource(
        "catalog_elements",
        "/api/v4/catalogs/{parent}/elements",
        "elements",
        absent_statuses=frozenset({403, 404}),
        source="[D A/catalogs-api; the fact sheet names it without a page]",
    ),
    Resource(
        "messages",
        "/api/v4/talks/{parent}/messages",
        "messages",
        absent_statuses=frozenset({404}),
        source="[D §4: scope list_external_messages, free of the messages' quota]",
    ),
    _tags("lead"),
    _tags("contact"),
    _tags("company"),
    Resource(
        "unsorted", "/api/v4/leads/unsorted", "unsorted", id_key="uid", source="[D §3.14: uid instead of id]"
    ),
    Resource(
        "webhooks",
        "/api/v4/webhooks",
        "webhooks",
        paged=False,
        totals=True,
        admin_only=True,
        source="[D A/webhooks-api; §5]",
    ),
)

CATALOGUE: Mapping[str, Resource] = MappingProxyType({row.name: row for row in _ROWS})
"""Every list by its name."""

_WORDS = frozenset(
    word for row in _ROWS for word in row.path.split("/") if not word.startswith("{")
) | frozenset({"send_message", "oauth2", "access_token", "account", "current", "subdomain"})


def pattern_of(path: str) -> str:
    """A path as it may stand anywhere: what is not one of the API's own words is an id, and left out.

    Args:
        path: Path, such as ``/api/v4/leads/5``; of this one, ``/api/v4/leads/{id}``.
    """
    return "/".join(word if word in _WORDS else "{id}" for word in path.split("/"))
