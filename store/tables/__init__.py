"""All tables of the store. Importing this package fills `metadata`: name each new module here."""

from store.tables.base import StoreModel, Version, metadata, table_of
from store.tables.budget import RateBudgetRow
from store.tables.connection import Connection
from store.tables.crm import (
    Account,
    Channel,
    CrmUser,
    CustomField,
    CustomFieldEnum,
    LossReason,
    Pipeline,
    PipelineStatus,
    TaskType,
)
from store.tables.runs import Snapshot, SnapshotHead, SyncRun

__all__ = [
    "Account",
    "Channel",
    "Connection",
    "CrmUser",
    "CustomField",
    "CustomFieldEnum",
    "LossReason",
    "Pipeline",
    "PipelineStatus",
    "RateBudgetRow",
    "Snapshot",
    "SnapshotHead",
    "StoreModel",
    "SyncRun",
    "TaskType",
    "Version",
    "metadata",
    "table_of",
]
