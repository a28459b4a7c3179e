"""The kinds of things that are kept in versions, and how each is stored and shown.

A kind says which table holds it, what its natural key is, and how a column is called in answers: the tables
speak SQL (`pipeline_id`), answers speak Kommo (`id`). Statuses and enums are children: they have versions of
their own, so that one renamed stage is one new row, and are shown inside their pipeline or field.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Table

from store import tables
from store.errors import UnknownKindError
from store.tables import StoreModel, table_of
from store.tables.base import VERSION_COLUMNS


@dataclass(frozen=True)
class Kind:
    """One kind of thing in a CRM's set-up.

    Attributes:
        name: the kind's name, in the plural.
        title: what a person calls one of them.
        table: where the versions are.
        id_column: the column that answers call `id`.
        key_columns: the columns whose values, joined by ":", are the natural key.
        name_column: the column by which people know an item.
        constants: column values that the kind itself determines.
        parent: the kind of which this one is a child; `id_column` of the parent is a column of the child,
            too.
        shown_as: the key under which a parent shows these children.
    """

    name: str
    title: str
    table: Table
    id_column: str
    key_columns: tuple[str, ...]
    name_column: str = "name"
    constants: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    shown_as: str | None = None

    @property
    def columns(self) -> Mapping[str, str]:
        """The kind's own columns and the keys they have in answers."""
        return {
            column.name: "id" if column.name == self.id_column else column.name
            for column in self.table.columns
            if column.name not in VERSION_COLUMNS
        }

    @property
    def children(self) -> "tuple[Kind, ...]":
        """The kinds that are shown inside this one."""
        return tuple(kind for kind in KINDS.values() if kind.parent == self.name)

    def key(self, columns: Mapping[str, Any]) -> str:
        """The natural key of an item with these columns: what `Item.key` should be."""
        return ":".join(str(columns[name]) for name in self.key_columns)


def _fields(entity: str, title: str) -> tuple[Kind, Kind]:
    """The kinds of one entity's field definitions and of their enums. Kommo's entity_type is plural [D]."""
    constants = {"entity_type": f"{entity}s" if entity != "company" else "companies"}
    fields = Kind(
        f"{entity}_fields",
        f"{title} field",
        table_of(tables.CustomField),
        "field_id",
        ("field_id",),
        constants=constants,
    )
    enums = Kind(
        f"{entity}_field_enums",
        f"choice of a {title} field",
        table_of(tables.CustomFieldEnum),
        "enum_id",
        ("field_id", "enum_id"),
        "value",
        constants=constants,
        parent=fields.name,
        shown_as="enums",
    )
    return fields, enums


def _plain(name: str, title: str, model: type[StoreModel], id_column: str) -> Kind:
    return Kind(name, title, table_of(model), id_column, (id_column,))


_ALL = (
    _plain("account", "account", tables.Account, "account_id"),
    _plain("task_types", "task type", tables.TaskType, "task_type_id"),
    _plain("pipelines", "pipeline", tables.Pipeline, "pipeline_id"),
    Kind(
        "statuses",
        "stage",
        table_of(tables.PipelineStatus),
        "status_id",
        ("pipeline_id", "status_id"),
        parent="pipelines",
        shown_as="statuses",
    ),
    _plain("channels", "channel", tables.Channel, "channel_id"),
    *_fields("lead", "lead"),
    *_fields("contact", "contact"),
    *_fields("company", "company"),
    _plain("users", "user", tables.CrmUser, "user_id"),
    _plain("loss_reasons", "loss reason", tables.LossReason, "loss_reason_id"),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ALL}

# The product's words (a funnel is a pipeline, a deal is a lead) and the spellings of its answers.
ALIASES: Mapping[str, str] = {
    "funnels": "pipelines",
    "stages": "statuses",
    "deal_fields": "lead_fields",
    "dealFields": "lead_fields",
    "contactFields": "contact_fields",
    "companyFields": "company_fields",
}


def find_kind(name: str) -> Kind:
    """The kind of this name, or of this name among the product's words.

    Raises:
        UnknownKindError: there is none.
    """
    kind = KINDS.get(ALIASES.get(name, name))
    if kind is None:
        raise UnknownKindError(
            f"There is no kind of snapshot called {name[:50]!r}. The caller must ask for one of: "
            f"{', '.join((*KINDS, *ALIASES))}."
        )
    return kind
