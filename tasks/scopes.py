"""What a sync can be asked for, in the product's words, and which reads that means.

One *group* is one read of Kommo and one transaction in the store: a pipeline and its statuses come in one answer and
must be seen together.
"""

from enum import StrEnum


class Scope(StrEnum):
    """What to read, in the product's own words."""

    ALL = "all"
    FUNNELS = "funnels"
    CHANNELS = "channels"
    FIELDS = "fields"


class SyncScope(StrEnum):
    """What a full sync reads: a part of the set-up, all of it, the records, or everything.

    `all` is what the product means by it: all of the set-up. It costs some twenty requests; the records of a large
    account cost thousands the first time, so that nobody gets them without asking.
    """

    ALL = "all"
    FUNNELS = "funnels"
    CHANNELS = "channels"
    FIELDS = "fields"
    RECORDS = "records"
    EVERYTHING = "everything"

    @property
    def set_up(self) -> Scope | None:
        """The part that is set-up; None if there is none."""
        if self is SyncScope.RECORDS:
            return None
        return Scope.ALL if self is SyncScope.EVERYTHING else Scope(self.value)

    @property
    def has_records(self) -> bool:
        """Whether records are read, too."""
        return self in {SyncScope.RECORDS, SyncScope.EVERYTHING}


class Group(StrEnum):
    """One unit of retry: what is read together is saved together."""

    ACCOUNT = "account"
    PIPELINES = "pipelines"
    CHANNELS = "channels"
    LEAD_FIELDS = "lead_fields"
    CONTACT_FIELDS = "contact_fields"
    COMPANY_FIELDS = "company_fields"
    USERS = "users"
    LOSS_REASONS = "loss_reasons"


KINDS_OF_GROUP: dict[Group, tuple[str, ...]] = {
    Group.ACCOUNT: ("account", "task_types"),
    Group.PIPELINES: ("pipelines", "statuses"),
    Group.CHANNELS: ("channels",),
    Group.LEAD_FIELDS: ("lead_fields", "lead_field_enums"),
    Group.CONTACT_FIELDS: ("contact_fields", "contact_field_enums"),
    Group.COMPANY_FIELDS: ("company_fields", "company_field_enums"),
    Group.USERS: ("users",),
    Group.LOSS_REASONS: ("loss_reasons",),
}

_FIELDS = (Group.LEAD_FIELDS, Group.CONTACT_FIELDS, Group.COMPANY_FIELDS)

# The account is not listed: it is read first in every sync, as the cheapest check of the token.
GROUPS_OF_SCOPE: dict[Scope, tuple[Group, ...]] = {
    Scope.FUNNELS: (Group.PIPELINES,),
    Scope.CHANNELS: (Group.CHANNELS,),
    Scope.FIELDS: _FIELDS,
    Scope.ALL: (Group.PIPELINES, Group.CHANNELS, *_FIELDS, Group.USERS, Group.LOSS_REASONS),
}
