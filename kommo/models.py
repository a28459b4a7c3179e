"""Kommo's configuration objects as types: tolerant towards Kommo, strict towards us.

Facts: kommo-api.md §3.1 account, §3.2 users, §3.3 pipelines, §3.4 custom fields, §3.5 loss reasons, §3.12
sources, §3.13 channels, §3.15 talks. Keys that are not named here are kept (S2); a missing optional key has a
harmless default; both documented shapes of a thing are understood. Errors name the place, never a value.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from kommo.errors import ErrorKind, KommoError

WON = 142
"""Status id of a won lead, in every pipeline [D §3.3]: a status is known by (pipeline, status) only."""
LOST = 143
"""Status id of a lost lead, in every pipeline [D §3.3]."""


def _or(default: object) -> BeforeValidator:
    return BeforeValidator(lambda value: default if value is None else value)


def _as_list(value: object) -> object:
    """PHP prints a list with gaps as an object keyed by index, and nothing as null [D §3.4, C PF]."""
    if value is None:
        return []
    return list(value.values()) if isinstance(value, dict) else value


def _as_mapping(value: object) -> object:
    """PHP prints an empty mapping as an empty list."""
    return {} if value is None or value == [] else value


Flag = Annotated[bool, _or(default=False)]
Text = Annotated[str, _or("")]
Sort = Annotated[int, _or(0)]


class KommoModel(BaseModel):
    """Base of all: unknown keys stay, errors hide the input, numbers may stand where text is meant."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True, coerce_numbers_to_str=True)


class TaskType(KommoModel):
    """A kind of task; 1 is follow-up, 2 meeting, others per account [D §3.1]."""

    id: int
    name: Text = ""
    code: str | None = None
    color: str | None = None
    icon_id: int | None = None


class UserGroup(KommoModel):
    """A group of users; 0 is the first one [D §3.1]."""

    id: int
    name: Text = ""
    uuid: str | None = None


class Account(KommoModel):
    """The account itself; what needs a ``with`` is ``None`` or empty without it [D §3.1]."""

    id: int
    name: Text = ""
    subdomain: Text = ""
    country: str | None = None
    currency: str | None = None
    currency_symbol: str | None = None
    customers_mode: str | None = None
    is_unsorted_on: bool | None = None
    is_loss_reason_enabled: bool | None = None
    current_user_id: int | None = None
    created_at: int | None = None
    updated_at: int | None = None
    amojo_id: str | None = None
    drive_url: str | None = None
    embedded: Annotated[dict[str, Any], BeforeValidator(_as_mapping)] = Field(
        default_factory=dict, alias="_embedded"
    )
    task_types: list[TaskType] = []
    users_groups: list[UserGroup] = []

    @model_validator(mode="before")
    @classmethod
    def _lift(cls, data: object) -> object:
        return _lifted(data, "task_types", "users_groups")

    @property
    def timezone(self) -> str | None:
        """Name of the time zone, such as ``Europe/Amsterdam`` (``with=datetime_settings``)."""
        settings = self.embedded.get("datetime_settings")
        zone = settings.get("timezone") if isinstance(settings, dict) else None
        return zone if isinstance(zone, str) else None


class Status(KommoModel):
    """A stage of a pipeline [D §3.3]."""

    id: int
    name: Text = ""
    sort: Sort = 0
    pipeline_id: int | None = None
    color: str | None = None
    type: Annotated[int, _or(0)] = 0
    is_editable: Annotated[bool, _or(default=True)] = True

    @property
    def is_incoming(self) -> bool:
        """Whether this is the stage of incoming leads, once per pipeline under an id of its own."""
        return self.type == 1

    @property
    def is_won(self) -> bool:
        """Whether leads here are won."""
        return self.id == WON

    @property
    def is_lost(self) -> bool:
        """Whether leads here are lost."""
        return self.id == LOST


class Pipeline(KommoModel):
    """A pipeline with its stages; a stage always knows its pipeline here [D §3.3]."""

    id: int
    name: Text = ""
    sort: Sort = 0
    is_main: Flag = False
    is_unsorted_on: Flag = False
    is_archive: Flag = False
    account_id: int | None = None
    statuses: list[Status] = []

    @model_validator(mode="before")
    @classmethod
    def _lift(cls, data: object) -> object:
        return _lifted(data, "statuses")

    @model_validator(mode="after")
    def _adopt(self) -> Self:
        for status in self.statuses:
            if status.pipeline_id is None:
                status.pipeline_id = self.id
        return self


class FieldEnum(KommoModel):
    """One option of a custom field [D §3.4]."""

    id: int
    value: Text = ""
    sort: Sort = 0
    code: str | None = None


class CustomField(KommoModel):
    """The definition of a custom field [D §3.4]. ``group_id`` is text; ``enums`` an object or null."""

    id: int
    name: Text = ""
    type: Text = ""
    code: str | None = None
    sort: Sort = 0
    group_id: str | None = None
    entity_type: str | None = None
    account_id: int | None = None
    is_api_only: Flag = False
    is_deletable: Annotated[bool, _or(default=True)] = True
    is_predefined: Flag = False
    is_computed: Flag = False
    is_required: Flag = False
    is_visible: Annotated[bool, _or(default=True)] = True
    enums: Annotated[list[FieldEnum], BeforeValidator(_as_list)] = []

    @property
    def is_system(self) -> bool:
        """Whether the field came with Kommo. Not a key of Kommo's: derived, predefined or not deletable."""
        return self.is_predefined or not self.is_deletable


class User(KommoModel):
    """A user. The flags sit under ``rights`` in Kommo's answer and are lifted; both places work [D §3.2]."""

    id: int
    name: Text = ""
    email: str | None = None
    lang: str | None = None
    is_admin: Flag = False
    is_active: Annotated[bool, _or(default=True)] = True
    is_free: Flag = False
    group_id: int | None = None
    role_id: int | None = None
    rights: Annotated[dict[str, Any], BeforeValidator(_as_mapping)] = {}

    @model_validator(mode="before")
    @classmethod
    def _lift(cls, data: object) -> object:
        rights = data.get("rights") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(rights, dict):
            return data
        names = ("is_admin", "is_active", "is_free", "group_id", "role_id")
        return {**{name: rights[name] for name in names if name in rights}, **data}


class LossReason(KommoModel):
    """Why a lead was lost [C PHP, §3.5]."""

    id: int
    name: Text = ""
    sort: Sort = 0
    created_at: int | None = None
    updated_at: int | None = None


class Source(KommoModel):
    """A source of leads that this integration has made [D §3.12]."""

    id: int
    name: Text = ""
    pipeline_id: int | None = None
    external_id: str | None = None
    origin_code: str | None = None
    default: Flag = False
    services: Annotated[list[dict[str, Any]], BeforeValidator(_as_list)] = []


class Talk(KommoModel):
    """A conversation; its id is ``talk_id``, and ``origin`` names the channel [D, C §3.15]."""

    talk_id: int
    origin: str | None = None
    chat_id: str | None = None
    contact_id: int | None = None
    entity_id: int | None = None
    entity_type: str | None = None
    is_in_work: Flag = False
    is_read: Flag = False
    status: str | None = None
    created_at: int | None = None
    updated_at: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _name(cls, data: object) -> object:
        if isinstance(data, dict) and "talk_id" not in data and "id" in data:
            return {**data, "talk_id": data["id"]}
        return data


class Channel(KommoModel):
    """An item of ``/api/v4/channels``, which Kommo does not have; read as it comes [I §3.13]."""

    id: str
    name: Text = ""
    type: str | None = None
    account_id: int | None = None


Model = TypeVar("Model", bound=KommoModel)


def parse_many(model: type[Model], items: Sequence[Mapping[str, Any]], resource: str = "") -> list[Model]:
    """Read a list of objects.

    Args:
        model: What they are.
        items: The objects as they came.
        resource: Name of the list for the error; by default the model's name.

    Raises:
        KommoError: ``malformed``; names the list, the id and the place inside the object, never a value.
    """
    parsed: list[Model] = []
    for item in items:
        trouble = None
        try:
            parsed.append(model.model_validate(item))
        except ValidationError as error:
            trouble = error.errors(include_url=False, include_context=False, include_input=False)
        if trouble:
            raise KommoError(
                ErrorKind.MALFORMED,
                detail=f"in {resource or model.__name__}, {_name_of(item)}: {_place(trouble[0])}",
            )
    return parsed


def unwrap_one(data: object, embedded: str) -> dict[str, Any]:
    """Take the one object out of an answer that may hold it bare or in a collection of one [D §3.3, §3.5].

    Args:
        data: The answer's data.
        embedded: Name of the collection under ``_embedded``, such as ``pipelines``.

    Raises:
        KommoError: ``malformed``; there is not exactly one object in it.
    """
    if isinstance(data, dict) and "id" in data:
        return data
    inner = data.get("_embedded") if isinstance(data, dict) else data
    items = _as_list(inner.get(embedded)) if isinstance(inner, dict) else inner
    if isinstance(items, list) and len(items) == 1 and isinstance(items[0], dict):
        return items[0]
    raise KommoError(ErrorKind.MALFORMED, detail=f"one object of {embedded} was expected")


def _lifted(data: object, *names: str) -> object:
    """Copy lists out of ``_embedded`` to where the model has them."""
    if not isinstance(data, dict):
        return data
    embedded = data.get("_embedded")
    inner = embedded if isinstance(embedded, dict) else {}
    return {**data, **{name: _as_list(inner.get(name, data.get(name))) for name in names}}


def _name_of(item: object) -> str:
    found = (item.get("id", item.get("talk_id")) if isinstance(item, Mapping) else None) or None
    return f"the item {found}" if isinstance(found, int) else "an item without a proper id"


def _place(trouble: Mapping[str, Any]) -> str:
    place = ".".join(str(step) for step in trouble["loc"]) or "the whole item"
    return f"{place} is not as documented ({trouble['type']})"
