"""What can be asked for: the four actions, each as a model that refuses what can be seen to be wrong by itself.

Whether it fits the org's own CRM (fields, users, stages) is seen by `tasks.actions.checking`. Names and shapes: the
product's (product-contract.md, doors 7 to 9); Kommo's: kommo-api.md §3.4, §3.8, §3.9 and §4.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from store.digest import digest_of
from tasks.errors import InvalidActionError

LONGEST_TEXT = 10_000
"""Characters of a text; Kommo names no limit, channels cut messages at a few thousand."""
LONGEST_KEY = 200
"""Characters of an idempotency key."""
MOST_AT_ONCE = 50
"""Actions in one request to Kommo [D §2.4: 50 recommended]."""
_FIRST, _LAST = 946_684_800, 4_102_444_800  # the years 2000 to 2100: milliseconds lie far beyond


class ActionKind(StrEnum):
    """The kinds of actions."""

    SEND_MESSAGE = "send-message"
    CREATE_TASK = "create-task"
    UPDATE_DEAL_FIELD = "update-deal-field"
    ADD_NOTE = "add-note"


Id = Annotated[int, Field(strict=True, ge=1, le=2**53)]
# A text of spaces only is none; NUL cannot be stored by anybody.
Text = Annotated[
    str, StringConstraints(min_length=1, max_length=LONGEST_TEXT, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")
]
IdempotencyKey = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]
"""1 to 200 printable ASCII characters without spaces; a UUID is a good one."""


class Wish(BaseModel):
    """What all actions have in common."""

    # Python reads NaN, and 1e999 as infinite; neither can be written as JSON again.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)
    kind: ClassVar[ActionKind]

    def digest(self) -> str:
        """What makes two requests the same: a digest of the kind and all values."""
        return digest_of({"kind": self.kind.value}, self.model_dump(mode="json"))


class SendMessage(Wish):
    """A text for the customer, in the open conversation that belongs to a deal or a contact."""

    kind: ClassVar[ActionKind] = ActionKind.SEND_MESSAGE
    entity_type: Literal["leads", "contacts"]
    entity_id: Id
    text: Text
    channel: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Only into this channel: its id, name or origin as the channels' snapshot has them.",
    )
    as_note: bool = Field(
        default=False,
        description="Write an internal note instead. It never reaches the customer, and the result says so.",
    )


class CreateTask(Wish):
    """A task for a person of the sales team."""

    kind: ClassVar[ActionKind] = ActionKind.CREATE_TASK
    text: Text
    complete_till: int = Field(
        strict=True, ge=_FIRST, le=_LAST, description="When it is due, in unix seconds (not milliseconds)."
    )
    task_type_id: Id = 1
    responsible_user_id: Id | None = Field(default=None, description="Without one, the token's own user.")
    entity_id: Id | None = None
    entity_type: Literal["leads", "contacts", "companies"] | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> "CreateTask":
        if (self.entity_id is None) != (self.entity_type is None):
            raise ValueError("Give entity_id and entity_type together, or neither.")
        return self


class UpdateDealField(Wish):
    """A new value for one field of a deal."""

    kind: ClassVar[ActionKind] = ActionKind.UPDATE_DEAL_FIELD
    deal_id: Id
    field_id: Id | Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        description="A custom field's id or code, or one of the deal's own: name, price, status_id, "
        "responsible_user_id."
    )
    value: JsonValue = Field(description="In the field's form; null clears a custom field.")

    @field_validator("value")
    @classmethod
    def _is_json(cls, value: JsonValue) -> JsonValue:
        """Infinity, NaN and halves of surrogate pairs are no JSON that Kommo takes, but Python reads them as such."""
        try:
            digest_of({}, value)
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            pass
        else:
            return value
        raise ValueError("It takes JSON, not too deep and with finite numbers.")


class AddNote(Wish):
    """An internal note; it never reaches the customer."""

    kind: ClassVar[ActionKind] = ActionKind.ADD_NOTE
    entity_type: Literal["leads", "contacts", "companies"]
    entity_id: Id
    text: Text


AnyWish = SendMessage | CreateTask | UpdateDealField | AddNote
WISHES: dict[ActionKind, type[AnyWish]] = {
    ActionKind.SEND_MESSAGE: SendMessage,
    ActionKind.CREATE_TASK: CreateTask,
    ActionKind.UPDATE_DEAL_FIELD: UpdateDealField,
    ActionKind.ADD_NOTE: AddNote,
}


_KEY: TypeAdapter[str] = TypeAdapter(IdempotencyKey)


def make_wish(kind: ActionKind, values: Mapping[str, Any]) -> AnyWish:
    """A wish from what a person or a program gave.

    Raises:
        InvalidActionError: it is none; says which value is at fault and why, and never repeats the value.
    """
    complaints: list[str] = []
    try:
        return WISHES[kind].model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        # Not the places within: they hold the keys of what was given, and may be hundreds deep.
        places = [str(one["loc"][0]) if one["loc"] else "" for one in found]
        complaints = [
            f"{place}: {one['msg']}" if place else one["msg"]
            for place, one in zip(places, found, strict=True)
        ]
        first = places[0] if places else ""
    # Outside the handler: the error holds what was given.
    raise InvalidActionError(f"This is no {kind.value}. {'; '.join(complaints[:5])}.", first)


def check_key(key: str) -> str:
    """The idempotency key.

    Raises:
        InvalidActionError: it cannot be one.
    """
    try:
        return _KEY.validate_python(key)
    except ValidationError:
        pass
    raise InvalidActionError(
        f"An idempotency key is 1 to {LONGEST_KEY} printable ASCII characters without spaces; a UUID is a good one.",
        "idempotency_key",
    )
