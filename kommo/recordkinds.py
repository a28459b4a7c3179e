"""The kinds of records: how each is read whole, what of it may be read since a moment, and what proves one gone.

Facts: kommo-api.md §2.5 (paging), §2.6 (order and filters; unknown ones are ignored without a word), §3.5-§3.15.

Pages shift while records change, so the ways of reading differ in what they can lose:

- `SPANS`: ordered and filtered by `updated_at`. Each request asks for the first page of a span of time, so nothing can
  move past it; spans are read side by side and a broken reading goes on with the spans that are left.
- `BACKWARDS`: ordered by id, from the last page to the first. What is removed pulls others towards pages that are still
  to come, so they come twice and none is lost; new ones have higher ids and are the next reading's.
- `WINDOW`: what is only ever added to, within a time that is over: its pages hold still.
- `FORWARDS`: newest first; what is added pushes others towards pages that are still to come.
- `WHOLE`: short lists, read again when they moved (`kommo.paging.read_all`).
- `PARTS`: one list for each record of another kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from kommo.catalogue import CATALOGUE, Resource


class Reading(StrEnum):
    """How a kind is read; the module says what each can lose."""

    SPANS = "spans"
    BACKWARDS = "backwards"
    WINDOW = "window"
    FORWARDS = "forwards"
    WHOLE = "whole"
    PARTS = "parts"


class Proof(StrEnum):
    """What makes a record that was not seen count as gone: asked for by its id, two whole readings, or nothing."""

    BY_ID = "by_id"
    TWO_READINGS = "two_readings"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class RecordKind:
    """One kind of records.

    Attributes:
        name: Our word, as tables and commands know it.
        resource: Its list in the catalogue.
        reading: How it is read whole.
        since: The time by which it can be read incrementally (`updated_at`, `created_at`); None: only whole.
        why: Why that is sound, or why there is none.
        proof: What a deletion is concluded from.
        of: For `PARTS`: the kind whose records each have such a list.
        needs_scope: A scope without which Kommo refuses the list (403); then there is none of it.
        usual: Whether it is read where no kind is named.
    """

    name: str
    resource: Resource
    reading: Reading
    since: str | None
    why: str
    proof: Proof
    of: str | None = None
    needs_scope: str | None = None
    usual: bool = True

    @property
    def incremental(self) -> bool:
        """Whether reading what changed since a moment is sound."""
        return self.since is not None

    @property
    def key(self) -> str:
        """The key of an item that tells it from the others."""
        return self.resource.id_key


_SPANS = (
    "order and filter by updated_at are documented [D §2.6]; where the filter is not sold, that is noticed"
)
_SHORT = "a short list without a documented order or filter by time; read whole"


def _spans(name: str, proof: Proof, why: str = _SPANS) -> RecordKind:
    return RecordKind(name, CATALOGUE[name], Reading.SPANS, "updated_at", why, proof)


def _whole(name: str) -> RecordKind:
    return RecordKind(name, CATALOGUE[name], Reading.WHOLE, None, _SHORT, Proof.TWO_READINGS)


_NOTES = (
    "order by updated_at [D §2.6], filter by it [D A]; Kommo's page names none: an ignored one is noticed"
)

_ALL = (
    _spans("leads", Proof.BY_ID),
    _spans("contacts", Proof.BY_ID),
    _spans("companies", Proof.BY_ID),
    RecordKind(
        "tasks",
        CATALOGUE["tasks"],
        Reading.BACKWARDS,
        "updated_at",
        "filter by updated_at is documented, order by it is not [D §3.8, §2.6]: by id, backwards",
        Proof.BY_ID,
    ),
    _spans("lead_notes", Proof.TWO_READINGS, _NOTES),
    _spans("contact_notes", Proof.TWO_READINGS, _NOTES),
    _spans("company_notes", Proof.TWO_READINGS, _NOTES),
    RecordKind(
        "events",
        CATALOGUE["events"],
        Reading.WINDOW,
        "created_at",
        "filter by created_at is documented [D §3.10]; events are never changed or deleted",
        Proof.NEVER,
    ),
    RecordKind(
        "talks",
        CATALOGUE["talks"],
        Reading.FORWARDS,
        None,
        "newest first, no filter by time and no order is documented [D §3.15]: only whole",
        Proof.NEVER,
    ),
    RecordKind(
        "messages",
        CATALOGUE["messages"],
        Reading.PARTS,
        None,
        "a list for each talk; whether a new message moves its talk's updated_at is not documented [D §4]: only whole, "
        "and only where it is named, for it costs a request for each talk",
        Proof.NEVER,
        of="talks",
        needs_scope="list_external_messages",
        usual=False,
    ),
    _whole("unsorted"),
    RecordKind(
        "customers",
        CATALOGUE["customers"],
        Reading.BACKWARDS,
        None,
        "no order or filter by time of customers is documented: only whole",
        Proof.TWO_READINGS,
    ),
    _whole("lead_tags"),
    _whole("contact_tags"),
    _whole("company_tags"),
    _whole("catalogs"),
    RecordKind(
        "catalog_elements",
        CATALOGUE["catalog_elements"],
        Reading.PARTS,
        None,
        "lists of each catalog; no order or filter by time is documented: only whole",
        Proof.TWO_READINGS,
        of="catalogs",
    ),
    _whole("users"),
    _whole("roles"),
)

RECORD_KINDS: Mapping[str, RecordKind] = MappingProxyType({kind.name: kind for kind in _ALL})
"""Every kind by its name, in the order in which they are read. Links are no list of their own: Kommo gives them with
the records (`with`), and the store shows them from there."""
