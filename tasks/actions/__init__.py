"""Actions: what the product asks to be done at Kommo, each exactly once or named unknown (R3).

`perform` is the way in. The story is told in docs/decisions/2026-11-25-actions.md.
"""

from tasks.actions.perform import perform, perform_many
from tasks.actions.session import ActionSession, Options, open_action_session
from tasks.actions.wishes import (
    MOST_AT_ONCE,
    ActionKind,
    AddNote,
    AnyWish,
    CreateTask,
    IdempotencyKey,
    SendMessage,
    UpdateDealField,
    check_key,
    make_wish,
)

__all__ = [
    "MOST_AT_ONCE",
    "ActionKind",
    "ActionSession",
    "AddNote",
    "AnyWish",
    "CreateTask",
    "IdempotencyKey",
    "Options",
    "SendMessage",
    "UpdateDealField",
    "check_key",
    "make_wish",
    "open_action_session",
    "perform",
    "perform_many",
]
