"""All tables of the store. Importing this package fills `metadata`: name each new module here."""

from store.tables.access import ApiKeyRow, OAuthStateRow
from store.tables.actions import ActionRow
from store.tables.alarms import FleetAlarmRow
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
from store.tables.fleet import SyncTurnRow
from store.tables.inbox import BacklogTurnRow, WebhookDeliveryRow, WebhookEventRow, WebhookKeyRow
from store.tables.outbox import ConnectionAuditRow, OutboxEndpointRow, OutboxRow, OutboxTurnRow
from store.tables.records import (
    RecordHistoryRow,
    RecordRow,
    RecordSyncRow,
    RecordVersionRow,
    WebhookCompletenessRow,
    WebhookSubscriptionRow,
)
from store.tables.runs import Snapshot, SnapshotHead, SyncRun
from store.tables.tokens import RefreshClaimRow, TokenJournalRow

__all__ = [
    "Account",
    "ActionRow",
    "ApiKeyRow",
    "BacklogTurnRow",
    "Channel",
    "Connection",
    "ConnectionAuditRow",
    "CrmUser",
    "CustomField",
    "CustomFieldEnum",
    "FleetAlarmRow",
    "LossReason",
    "OAuthStateRow",
    "OutboxEndpointRow",
    "OutboxRow",
    "OutboxTurnRow",
    "Pipeline",
    "PipelineStatus",
    "RateBudgetRow",
    "RecordHistoryRow",
    "RecordRow",
    "RecordSyncRow",
    "RecordVersionRow",
    "RefreshClaimRow",
    "Snapshot",
    "SnapshotHead",
    "StoreModel",
    "SyncRun",
    "SyncTurnRow",
    "TaskType",
    "TokenJournalRow",
    "Version",
    "WebhookCompletenessRow",
    "WebhookDeliveryRow",
    "WebhookEventRow",
    "WebhookKeyRow",
    "WebhookSubscriptionRow",
    "metadata",
    "table_of",
]
