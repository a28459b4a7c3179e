"""The set-up of a customer's Kommo account as tables: one row per value that held for a while.

The columns are those that consumers filter and join on; everything else of Kommo's object is in `raw`. They
are NULL where Kommo did not send them. Names and meanings: [D] of kommo-api.md §3.1-§3.4, §3.12-§3.15.
"""

from store.tables.base import Version, flag_column, number_column, text_column, version_indexes


class Account(Version, table=True):
    """The account itself, one row per org [D]."""

    __tablename__ = "account"
    __table_args__ = version_indexes("account")
    account_id: int = number_column(null=False)
    name: str | None = text_column(null=True)
    subdomain: str | None = text_column(null=True)
    country: str | None = text_column(null=True)
    currency: str | None = text_column(null=True)
    timezone: str | None = text_column(null=True)
    customers_mode: str | None = text_column(null=True)
    is_unsorted_on: bool | None = flag_column()
    is_loss_reason_enabled: bool | None = flag_column()
    amojo_id: str | None = text_column(null=True)


class Pipeline(Version, table=True):
    """A pipeline (the product's "funnel") [D K/pipelines]."""

    __tablename__ = "pipeline"
    __table_args__ = version_indexes("pipeline")
    pipeline_id: int = number_column(null=False)
    name: str | None = text_column(null=True)
    sort: int | None = number_column()
    is_main: bool | None = flag_column()
    is_archive: bool | None = flag_column()
    is_unsorted_on: bool | None = flag_column()


class PipelineStatus(Version, table=True):
    """A stage. 142 and 143 exist in every pipeline, so a stage is known by both ids [D K/pipelines]."""

    __tablename__ = "pipeline_status"
    __table_args__ = version_indexes("pipeline_status")
    pipeline_id: int = number_column(null=False)
    status_id: int = number_column(null=False)
    name: str | None = text_column(null=True)
    sort: int | None = number_column()
    color: str | None = text_column(null=True)
    type: int | None = number_column()
    is_editable: bool | None = flag_column()


class Channel(Version, table=True):
    """A channel, put together from what Kommo has instead of a list of channels (design.md §4.4).

    `found_in` says where it was seen: "sources", "talks" or "channels".
    """

    __tablename__ = "channel"
    __table_args__ = version_indexes("channel")
    channel_id: str = text_column()
    name: str | None = text_column(null=True)
    type: str | None = text_column(null=True)
    origin: str | None = text_column(null=True)
    source_id: int | None = number_column()
    external_id: str | None = text_column(null=True)
    pipeline_id: int | None = number_column()
    account_id: int | None = number_column()
    found_in: str | None = text_column(null=True)


class CustomField(Version, table=True):
    """A field definition of leads, contacts or companies [D]. `is_system` is derived."""

    __tablename__ = "custom_field"
    __table_args__ = version_indexes("custom_field")
    entity_type: str = text_column()
    field_id: int = number_column(null=False)
    name: str | None = text_column(null=True)
    type: str | None = text_column(null=True)
    code: str | None = text_column(null=True)
    sort: int | None = number_column()
    group_id: str | None = text_column(null=True)
    is_api_only: bool | None = flag_column()
    is_deletable: bool | None = flag_column()
    is_predefined: bool | None = flag_column()
    is_system: bool | None = flag_column()
    is_computed: bool | None = flag_column()
    is_required: bool | None = flag_column()


class CustomFieldEnum(Version, table=True):
    """One choice of a select-like field [D]. Writing it by text needs the exact value."""

    __tablename__ = "custom_field_enum"
    __table_args__ = version_indexes("custom_field_enum")
    entity_type: str = text_column()
    field_id: int = number_column(null=False)
    enum_id: int = number_column(null=False)
    value: str | None = text_column(null=True)
    code: str | None = text_column(null=True)
    sort: int | None = number_column()


class CrmUser(Version, table=True):
    """A user of the account; `is_admin` and `is_active` come from its rights [D]."""

    __tablename__ = "crm_user"
    __table_args__ = version_indexes("crm_user")
    user_id: int = number_column(null=False)
    name: str | None = text_column(null=True)
    email: str | None = text_column(null=True)
    lang: str | None = text_column(null=True)
    is_admin: bool | None = flag_column()
    is_active: bool | None = flag_column()
    is_free: bool | None = flag_column()
    role_id: int | None = number_column()
    group_id: int | None = number_column()


class TaskType(Version, table=True):
    """A type of task, from the account's `_embedded.task_types` [D]."""

    __tablename__ = "task_type"
    __table_args__ = version_indexes("task_type")
    task_type_id: int = number_column(null=False)
    name: str | None = text_column(null=True)
    code: str | None = text_column(null=True)
    color: str | None = text_column(null=True)
    icon_id: int | None = number_column()


class LossReason(Version, table=True):
    """A reason for losing a lead [C PHP]."""

    __tablename__ = "loss_reason"
    __table_args__ = version_indexes("loss_reason")
    loss_reason_id: int = number_column(null=False)
    name: str | None = text_column(null=True)
    sort: int | None = number_column()
