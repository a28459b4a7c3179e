"""What will be sent for an action, as its row keeps it: made when it is asked for, done by whoever comes to it."""

import hashlib
import html
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

SHORTEST_CUT = 200
"""Characters after which a text counts as the one that was sent though it was cut: Kommo names no lengths."""
_SHORTEST_PART = 10
"""Letters after which a text that stands in another one is similar to it."""


class Call(StrEnum):
    """What is called at Kommo."""

    TASK = "task"
    NOTE = "note"
    FIELD = "field"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be sent.

    Attributes:
        call: What is called.
        element: What goes into the request.
        entity: `leads`, `contacts` or `companies`; None for a task of nothing.
        entity_id: Which one.
        field: For a field of a deal: `{"id", "type"}` of a custom one, `{"key"}` of one of its own.
        origins: For a message: the channels' origins that are meant; None for any.
        talk_id: For a message: the conversation, once it is found.
        origin: For a message: that conversation's channel.
        account: Kommo's id of the account that it is for; None if it was not known.
    """

    call: Call
    element: dict[str, Any]
    entity: str | None
    entity_id: int | None
    field: dict[str, Any] | None = None
    origins: list[str] | None = None
    talk_id: int | None = None
    origin: str | None = None
    account: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As the row keeps it."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Plan":
        """As the row has kept it."""
        values = {"entity": None, "entity_id": None, **kept}
        return cls(**values | {"call": Call(kept["call"])})

    @property
    def twin(self) -> str:
        """What a second, equal action could not be told from at Kommo: exactly what a lookup compares."""
        if self.call is Call.FIELD:
            assert self.field is not None  # noqa: S101 - every plan of a field has it
            return f"field:{self.entity_id}:{self.field.get('id') or self.field.get('key')}"
        place = self.talk_id if self.talk_id is not None else [self.entity, self.entity_id]
        seen = [place, head_of(self.text), self.element.get("complete_till")]
        return f"{self.call}:{hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]}"

    @property
    def text(self) -> str:
        """The text of a task, note or message."""
        if self.call is Call.NOTE:
            return str(self.element["params"]["text"])
        return str(self.element.get("text", ""))


def plain(text: str) -> str:
    """A text as it is compared: what Kommo may do to its spaces makes no difference."""
    return " ".join(text.split())


def head_of(text: str) -> str:
    """The part of a text that is there even if it was cut."""
    return plain(text)[:SHORTEST_CUT]


def same_text(sent: str, read: object) -> bool:
    """Whether a text that was read is the one that was sent, whole or cut."""
    if not isinstance(read, str):
        return False
    ours, theirs = plain(sent), plain(read)
    return ours == theirs or (len(theirs) >= SHORTEST_CUT and ours.startswith(theirs))


def similar_text(sent: str, read: object) -> bool:
    """Whether a text that was read may be the one that was sent: its letters are the same, or a part of them."""
    if not isinstance(read, str):
        return False
    ours, theirs = _letters(sent), _letters(read)
    shorter, longer = sorted((ours, theirs), key=len)
    return ours == theirs or (len(shorter) >= _SHORTEST_PART and shorter in longer)


def _letters(text: str) -> str:
    """What is left of a text whatever is done to its spaces, signs and pictures."""
    folded = unicodedata.normalize("NFKC", html.unescape(text)).casefold()
    return "".join(letter for letter in folded if letter.isalnum())
