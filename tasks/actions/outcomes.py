"""What came of an action: its words and sentences, and what the product is told."""

import uuid
from collections.abc import Mapping
from typing import Any

from kommo.answers import NOT_IN_PLAN, QUOTA_USED_UP
from kommo.errors import ErrorKind, KommoError
from store.action_journal import NEVER, HeldAction, Outcome
from store.actions import ActionState
from store.errors import StoreError
from store.outbox import OutboxEvent
from tasks.actions.plans import Call, Plan
from tasks.errors import (
    AccountChangedError,
    NotConnectedError,
    ReauthorizationRequiredError,
    sentence_of,
)
from tasks.event_types import NOUNS, type_of

_NAMESPACE = uuid.UUID("5b1f9b1c-0d0e-5d7a-9a51-3c7f4f7f2d10")
_SEND = "The message was not sent: "
_TEMPORARY = frozenset(
    {
        ErrorKind.RATE_LIMITED,
        ErrorKind.BUDGET_BLOCKED,
        ErrorKind.IP_BLOCKED,
        ErrorKind.UNREACHABLE,
        ErrorKind.TOO_BUSY,
    }
)
# What only a person can change, so that a lookup will not work again by itself.
NO_LOOK = frozenset(
    {
        ErrorKind.FORBIDDEN,
        ErrorKind.PAYMENT_REQUIRED,
        ErrorKind.NOT_FOUND,
        ErrorKind.UNAUTHORIZED,
        ErrorKind.OAUTH_REFUSED,
    }
)
_MESSAGE_REASONS: Mapping[ErrorKind, tuple[str, str]] = {
    ErrorKind.PAYMENT_REQUIRED: (
        "payment_required",
        _SEND
        + "the Kommo account is not paid for, or its plan does not have this function. Its owner must act.",
    ),
    ErrorKind.FORBIDDEN: (
        "scope_missing",
        _SEND
        + "the authorization does not cover it. Add the scope send_external_messages to the integration and "
        "authorize the account again.",
    ),
    ErrorKind.NOT_FOUND: (
        "talk_not_found",
        _SEND + "Kommo does not know the conversation any more, or the account does not have this function.",
    ),
    ErrorKind.LIMIT: (
        "talk_closed",
        _SEND + "the conversation is closed. It opens again when the customer writes.",
    ),
}
_PAYMENT_REASONS: Mapping[str, tuple[str, str]] = {
    QUOTA_USED_UP: (
        "quota_used_up",
        _SEND
        + "the account's quota of messages sent by the API is used up. It renews with the month; more can be "
        "bought in Kommo.",
    ),
    NOT_IN_PLAN: (
        "not_in_plan",
        _SEND + "the account's plan does not have sending by the API. It takes the plan Pro or Enterprise.",
    ),
}
_CODES: Mapping[type[BaseException], str] = {
    AccountChangedError: "account_changed",
    NotConnectedError: "not_connected",
    ReauthorizationRequiredError: "reauthorization_required",
}
NO_TALK = (
    "no_talk",
    _SEND
    + "there is no open conversation with this customer{channel}. A conversation begins when the customer "
    "writes; to leave a note for the team instead, ask for it (as_note).",
)
NO_TALKS = (
    "not_offered",
    _SEND + "this account's Kommo does not list its conversations (amoCRM does not), so none can be found.",
)
SUPERSEDED = ("superseded", "A later action has set this field; to send this one now would undo it.")
TWIN = ("twin_under_way", "An equal action is under way; this one waits, so that the two can be told apart.")
LOOKED_UP = (
    "being_looked_up",
    "The answer was lost; Kommo is asked whether it was done before anything is sent again.",
)
ALIKE = (
    "alike_found",
    "There is one at Kommo that differs in a part only: it may be this one, changed since.",
)
INTERRUPTED = ("interrupted", "The process that worked on it ended; it goes on by itself.")


def is_temporary(error: Exception) -> bool:
    """Whether the request was not carried out, and may be when it is sent again a little later."""
    if isinstance(error, KommoError):
        return not error.outcome_unknown and (error.kind in _TEMPORARY or error.retryable)
    return not isinstance(error, NotConnectedError | ReauthorizationRequiredError)


def waits_for(error: Exception) -> tuple[str, str]:
    """What an action waits for that met a temporary trouble: a word and a sentence."""
    if isinstance(error, KommoError):
        return error.kind.value, str(error)
    return "store_unavailable" if isinstance(error, StoreError) else "not_ready", sentence_of(error)


def reason_of(plan: Plan, error: BaseException) -> tuple[str, str]:
    """Why an action could not be done: a word and a sentence."""
    if isinstance(error, KommoError):
        if plan.call is Call.MESSAGE and error.path and error.path.endswith("/send_message"):
            if error.detail is not None and error.detail in _PAYMENT_REASONS:
                return _PAYMENT_REASONS[error.detail]
            if error.kind in _MESSAGE_REASONS:
                return _MESSAGE_REASONS[error.kind]
        if plan.call is Call.MESSAGE and error.path == "/api/v4/talks" and error.status in {404, 405}:
            return NO_TALKS
        if error.kind is ErrorKind.VALIDATION:
            return "refused_by_kommo", str(error)
        return error.kind.value, str(error)
    return _CODES.get(type(error), "failed"), sentence_of(error)


def lookup_reason(error: KommoError | None) -> tuple[str, str]:
    """Why nobody can tell whether an action was done: a word and a sentence."""
    if error is None:
        return ALIKE
    return "lookup_forbidden" if error.kind is ErrorKind.FORBIDDEN else "lookup_failed", str(error)


def confirmed(held: HeldAction, plan: Plan, result: dict[str, Any], made: str | None) -> Outcome:
    """It was done."""
    event = event_of(held, plan, ActionState.CONFIRMED, result, None)
    return Outcome(held.id, ActionState.CONFIRMED, event, result=result, made=made)


def failed(held: HeldAction, plan: Plan, reason: tuple[str, str]) -> Outcome:
    """It was not done, and will not be."""
    event = event_of(held, plan, ActionState.FAILED, None, reason)
    return Outcome(held.id, ActionState.FAILED, event, reason_code=reason[0], reason=reason[1])


def unknown(held: HeldAction, plan: Plan, reason: tuple[str, str], due_in: float = NEVER) -> Outcome:
    """Nobody can say at the moment whether it was done."""
    sentence = f"It may have been done or not: the answer was lost, and nobody can tell. {reason[1]}"
    event = event_of(held, plan, ActionState.UNKNOWN, None, (reason[0], sentence))
    return Outcome(held.id, ActionState.UNKNOWN, event, reason_code=reason[0], reason=sentence, due_in=due_in)


def event_of(
    held: HeldAction,
    plan: Plan,
    state: ActionState,
    result: dict[str, Any] | None,
    reason: tuple[str, str] | None,
) -> OutboxEvent:
    """What the product is told; the same action and state are the same event, so that it is told once."""
    record = held.record
    return action_event(
        record.org,
        plan,
        {
            "action_id": record.action_id,
            "kind": record.kind,
            "idempotency_key": record.idempotency_key,
            "state": state.value,
            "result": result,
            "reason": reason[1] if reason else None,
            "reason_code": reason[0] if reason else None,
        },
    )


def action_event(org: str, plan: Plan | None, facts: dict[str, Any]) -> OutboxEvent:
    """What the product is told of an action.

    Args:
        org: The product's tenant.
        plan: What was to be sent; None for what did not fit.
        facts: The payload, as far as it does not come from the plan.
    """
    noun = NOUNS.get(plan.entity or "") if plan else None
    entity, number = (plan.entity, plan.entity_id) if plan else (None, None)
    return OutboxEvent(
        type_of("action", facts["state"]),
        org,
        f"{noun}:{plan.entity_id}" if plan and noun else f"action:{facts['action_id']}",
        {"org": org, **facts, "entity": entity, "id": number},
        str(uuid.uuid5(_NAMESPACE, f"{facts['action_id']}:{facts['state']}")),
    )
