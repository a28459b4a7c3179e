"""What the stand-in holds: accounts with their collections, and the cached bytes that make reading fast.

Records are plain dicts in the shape of the API, without `_links` and `_embedded`; keys that begin with an underscore
are the sandbox's own (relations) and never leave it. A record is replaced as a whole when it changes, nested values are
never edited in place: seeded records share them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Record = dict[str, Any]
Flavour = Literal["kommo", "amo"]

ENTITIES = ("leads", "contacts", "companies")
FIELD_ENTITIES = ("leads", "contacts", "companies", "customers")
SINGULAR = {
    "leads": "lead",
    "contacts": "contact",
    "companies": "company",
    "customers": "customer",
    "tasks": "task",
}
FIRST_USER_ID = 11_087_001  # the administrator who set an account up
WON, LOST = 142, 143  # the same two ids in every pipeline [D K/leads-pipelines]

_MAX_FRAGMENTS = 400_000
_MAX_VIEWS = 16


class Collection:
    """Records by id, in the order of their ids or of their making.

    Args:
        first_id: Id of the first record that `next_id` hands out.
        step: Distance of ids; Kommo's are not dense either.
    """

    def __init__(self, first_id: int = 1, step: int = 2) -> None:
        self._items: dict[int, Record] = {}
        self._next = first_id
        self._step = step
        self._views: dict[object, list[Record]] = {}
        self._fragments: dict[tuple[int, object], bytes] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._items.values())

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._items

    def get(self, record_id: int) -> Record | None:
        """The record, or None."""
        return self._items.get(record_id)

    def next_id(self) -> int:
        """A fresh id."""
        value = self._next
        self._next += self._step
        return value

    def add(self, record: Record, key: int | None = None) -> Record:
        """Hold a record under its `id` (or another key) and forget what was cached of it."""
        record_id = int(record["id"]) if key is None else key
        if record_id in self._items:
            self._fragments = {
                known: kept for known, kept in self._fragments.items() if known[0] != record_id
            }
        self._items[record_id] = record
        self._views.clear()
        return record

    def extend(self, records: Iterable[Record]) -> None:
        """Hold many new records (used while seeding)."""
        self._items.update((int(record["id"]), record) for record in records)
        self._views.clear()

    def change(self, record_id: int, **values: object) -> Record:
        """Replace some keys of a record; the record becomes a new dict."""
        return self.add(self._items[record_id] | values, record_id)

    def remove(self, record_id: int) -> Record | None:
        """Forget a record."""
        self._views.clear()
        self._fragments.clear()
        return self._items.pop(record_id, None)

    def forget_rendered(self) -> None:
        """Drop cached bytes (something that rendered records refer to has changed)."""
        self._fragments.clear()

    def view(self, key: object, build: Callable[[], list[Record]]) -> list[Record]:
        """A filtered and sorted list, built once until the collection changes.

        Args:
            key: What distinguishes the list (the query without paging).
            build: Makes the list.
        """
        known = self._views.get(key)
        if known is None:
            if len(self._views) >= _MAX_VIEWS:
                self._views.clear()
            known = self._views[key] = build()
        return known

    def fragment(self, record_id: int, variant: object, build: Callable[[], bytes]) -> bytes:
        """The JSON bytes of one record, made once until it changes.

        Args:
            record_id: Which record.
            variant: What distinguishes renderings (`with`).
            build: Makes the bytes.
        """
        known = self._fragments.get((record_id, variant))
        if known is None:
            if len(self._fragments) >= _MAX_FRAGMENTS:
                self._fragments.clear()
            known = self._fragments[record_id, variant] = build()
        return known


@dataclass(eq=False)
class Account:
    """One Kommo account.

    Args:
        profile: The plain keys of `GET /account`.
        flavour: "kommo" or "amo": which of the two documented shapes is shown where they differ.
        top_domain: Host and port behind the subdomain, e.g. localhost:8025.
    """

    profile: Record
    flavour: Flavour
    top_domain: str
    hidden: Record = field(default_factory=dict)  # shown only with the matching `with=`
    users: Collection = field(default_factory=lambda: Collection(FIRST_USER_ID))
    pipelines: Collection = field(default_factory=lambda: Collection(8_572_500, 4))
    next_status: int = 67_548_601
    fields: dict[str, Collection] = field(default_factory=dict)
    next_enum: int = 867_968
    entities: dict[str, Collection] = field(default_factory=dict)
    tasks: Collection = field(default_factory=lambda: Collection(1_564_671))
    notes: Collection = field(default_factory=lambda: Collection(42_709_325))
    events: list[Record] = field(default_factory=list)
    tags: dict[str, Collection] = field(default_factory=dict)
    loss_reasons: Collection = field(default_factory=lambda: Collection(4_203_748))
    sources: Collection = field(default_factory=lambda: Collection(17_619_939))
    talks: Collection = field(default_factory=lambda: Collection(191, 1))
    messages: dict[int, list[Record]] = field(default_factory=dict)
    unsorted: dict[str, Record] = field(default_factory=dict)
    catalogs: Collection = field(default_factory=lambda: Collection(1_001))
    elements: dict[int, Collection] = field(default_factory=dict)
    webhooks: Collection = field(default_factory=lambda: Collection(1_056_949))
    bots: set[int] = field(default_factory=lambda: {321})
    chat_links: Collection = field(default_factory=lambda: Collection(26_219))
    calls: Collection = field(default_factory=lambda: Collection(37_512_063))
    values_json: dict[int, tuple[list[Record], bytes]] = field(default_factory=dict)
    paid: bool = True
    chats_tariff: bool = True
    chats_quota: int = 500

    @property
    def id(self) -> int:
        """Kommo's id of the account."""
        return int(self.profile["id"])

    @property
    def subdomain(self) -> str:
        """First label of the host; it can be renamed."""
        return str(self.profile["subdomain"])

    @property
    def host(self) -> str:
        """Host with port, as it stands in the `referer` of the OAuth callback."""
        return f"{self.subdomain}.{self.top_domain}"

    @property
    def url(self) -> str:
        """Where links point to."""
        return f"http://{self.host}"

    @property
    def admin_id(self) -> int:
        """The first administrator."""
        return next(int(user["id"]) for user in self.users if user["rights"]["is_admin"])

    def forget_rendered(self) -> None:
        """Drop all cached bytes: a name or host that is part of them has changed."""
        self.values_json.clear()
        for collection in self.entities.values():
            collection.forget_rendered()

    def statuses(self, pipeline_id: int) -> list[Record]:
        """The stages of a pipeline by their sort order; none if there is no such pipeline."""
        pipeline = self.pipelines.get(pipeline_id)
        return sorted(pipeline["_statuses"], key=lambda status: int(status["sort"])) if pipeline else []

    def status(self, pipeline_id: int, status_id: int) -> Record | None:
        """One stage; 142 and 143 exist in every pipeline, so the pipeline is part of the key."""
        return next((status for status in self.statuses(pipeline_id) if status["id"] == status_id), None)

    def main_pipeline(self) -> Record:
        """The pipeline that new leads fall into."""
        return next(
            (pipeline for pipeline in self.pipelines if pipeline["is_main"]), next(iter(self.pipelines))
        )

    def field_by_code(self, entity: str, code: str) -> Record | None:
        """A custom field definition by its code."""
        return next((known for known in self.fields[entity] if known["code"] == code), None)

    def tag_named(self, entity: str, name: str) -> Record:
        """The tag of that name, made when it is new (POST of tags is idempotent by name)."""
        known = next((tag for tag in self.tags[entity] if tag["name"] == name), None)
        return known or self.tags[entity].add(
            {"id": self.tags[entity].next_id(), "name": name, "color": None}
        )


@dataclass(frozen=True)
class Change:
    """One change of data, told to the listeners; webhooks are made of it.

    Args:
        account: Where.
        entity: leads, contacts, companies, customers, tasks, notes, talks, unsorted, messages, elements.
        action: add, update, status, responsible, delete, note, close …
        before: The record before, or None.
        after: The record now, or None when it is gone.
        user_id: Who did it; 0 = the system.
        moment: Unix seconds.
    """

    account: Account
    entity: str
    action: str
    before: Record | None
    after: Record | None
    user_id: int
    moment: int
