"""`kommo action`: have something done at Kommo, once, and see what came of it."""

from __future__ import annotations

import json as json_format
import uuid
from typing import TYPE_CHECKING, Any

from deployments.cli.output import cell, print_json, say, state_text, table
from deployments.cli.run import WrongUseError, many_imports

_PATIENCE = 70.0
"""Seconds; less than an action is worked on."""

if TYPE_CHECKING:
    from store.actions import ActionRecord


async def send_message(
    org: str,
    entity_type: str,
    entity_id: int,
    text: str,
    *,
    channel: str | None = None,
    as_note: bool = False,
    key: str | None = None,
    json: bool = False,
) -> None:
    """Send the customer a text in the open conversation that belongs to a deal or a contact.

    Args:
        org: The org.
        entity_type: leads or contacts.
        entity_id: Kommo's id of it.
        text: What the customer reads.
        channel: Only into this channel: its id, name or origin.
        as_note: Write an internal note instead, which the customer never sees.
        key: Idempotency key: the same one again gives the same action.
        json: Print the action as JSON.
    """
    values = {
        "entity_type": entity_type,
        "entity_id": entity_id,
        "text": text,
        "channel": channel,
        "as_note": as_note,
    }
    await _perform("send-message", org, values, key, json=json)


async def create_task(
    org: str,
    text: str,
    *,
    till: int,
    task_type: int = 1,
    user: int | None = None,
    entity_type: str | None = None,
    entity_id: int | None = None,
    key: str | None = None,
    json: bool = False,
) -> None:
    """Create a task for the sales team.

    Args:
        org: The org.
        text: What is to be done.
        till: Until when, in unix seconds.
        task_type: The account's kind of task; 1 is a follow-up.
        user: Who does it; without one, the token's own user.
        entity_type: What it belongs to: leads, contacts or companies.
        entity_id: Kommo's id of that.
        key: Idempotency key: the same one again gives the same action.
        json: Print the action as JSON.
    """
    values = {
        "text": text,
        "complete_till": till,
        "task_type_id": task_type,
        "responsible_user_id": user,
        "entity_type": entity_type,
        "entity_id": entity_id,
    }
    await _perform("create-task", org, values, key, json=json)


async def update_deal_field(
    org: str, deal_id: int, field: str, value: str, *, key: str | None = None, json: bool = False
) -> None:
    """Give one field of a deal a new value.

    Args:
        org: The org.
        deal_id: Kommo's id of the deal.
        field: A custom field's id or code, or name, price, status_id, responsible_user_id.
        value: The value as JSON, such as 1.5, true, null or {"city": "Riga"}; anything else is a text.
        key: Idempotency key: the same one again gives the same action.
        json: Print the action as JSON.
    """
    try:
        read = json_format.loads(value, parse_constant=_refuse)
    except ValueError:
        read = value
    number: int | str = int(field) if field.isdecimal() else field
    values = {"deal_id": deal_id, "field_id": number, "value": read}
    await _perform("update-deal-field", org, values, key, json=json)


async def add_note(
    org: str, entity_type: str, entity_id: int, text: str, *, key: str | None = None, json: bool = False
) -> None:
    """Leave an internal note; the customer never sees it.

    Args:
        org: The org.
        entity_type: leads, contacts or companies.
        entity_id: Kommo's id of it.
        text: The note.
        key: Idempotency key: the same one again gives the same action.
        json: Print the action as JSON.
    """
    values = {"entity_type": entity_type, "entity_id": entity_id, "text": text}
    await _perform("add-note", org, values, key, json=json)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON, so it is a text")


async def _perform(kind: str, org: str, values: dict[str, Any], key: str | None, *, json: bool) -> None:
    with many_imports():
        from tasks.actions import ActionKind, Options, check_key, make_wish, open_action_session, perform
    from blocks.settings import Settings
    from store.actions import ActionState
    from tasks.errors import ActionFailedError, ActionNotDoneError, InvalidActionError

    try:
        wish, key = make_wish(ActionKind(kind), values), check_key(uuid.uuid4().hex if key is None else key)
    except InvalidActionError as error:
        raise WrongUseError(str(error)) from None
    if not json:
        say(f"Idempotency key: {key}")  # first, so that it is there whatever comes
    # Where Prefect's small server has to be started first, that takes half a minute of it.
    async with open_action_session(Settings(), options=Options(patience=_PATIENCE)) as session:
        record = await perform(session, org, wish, key)
    if json:
        print_json(record)
    if record.state in {ActionState.FAILED, ActionState.UNKNOWN}:
        raise ActionFailedError(record)
    if not json:
        _show(record)
    if record.state is not ActionState.CONFIRMED:
        raise ActionNotDoneError(record)


async def show_all(
    org: str | None = None,
    *,
    state: str | None = None,
    limit: int = 50,
    after: str | None = None,
    json: bool = False,
) -> None:
    """Show actions, the newest first.

    Args:
        org: One org; without it, all.
        state: Only those that are intended, sent, confirmed, failed or unknown.
        limit: At most so many.
        after: The last id of the page before.
        json: Print them as JSON.
    """
    from blocks.settings import Settings
    from store.actions import ActionState, list_actions
    from tasks.installation import open_database

    if limit < 1:
        raise WrongUseError("--limit is at least 1.")
    try:
        wanted = None if state is None else ActionState(state)
    except ValueError:
        raise WrongUseError(f"--state is one of {', '.join(ActionState)}, not {state!r}.") from None
    async with open_database(Settings()) as database:
        found = await list_actions(database, org, wanted, limit, after)
    if json:
        print_json(found)
        return
    if not found:
        say("There are no such actions.")
        return
    table(
        ["action", "org", "what", "state", "asked for", "result", "why"],
        [
            (
                one.action_id,
                cell(one.org),
                cell(one.kind),
                state_text(one.state),
                cell(one.created_at),
                cell(one.result),
                cell(one.reason or ""),
            )
            for one in found
        ],
    )


async def show(org: str, action_id: str, *, json: bool = False) -> None:
    """Show one action, with what was asked for: that may be a customer's data.

    Args:
        org: The org.
        action_id: The action's id.
        json: Print it as JSON.
    """
    from blocks.settings import Settings
    from store.actions import get_action
    from tasks.errors import DataPlaneError
    from tasks.installation import open_database

    async with open_database(Settings()) as database:
        found = await get_action(database, org, action_id)
    if found is None:
        raise DataPlaneError(f"'{org}' has no action {action_id}: kommo action list {org} shows them.")
    if json:
        print_json(found)
        return
    _show(found)
    table(["asked for", "value"], [(cell(name), cell(value)) for name, value in found.request.items()])


async def settle(*orgs: str, json: bool = False) -> None:
    """Go on with what was left behind: send what was never sent, look up what may have been done.

    Args:
        orgs: Only these orgs; without any, all.
        json: Print the report as JSON.
    """
    with many_imports():
        from tasks.actions import open_action_session
        from tasks.actions.running import settle_due
    from blocks.settings import Settings

    async with open_action_session(Settings()) as session:
        report = await settle_due(session, orgs=list(orgs) or None)
    if json:
        print_json(report)
    else:
        say(report.summary())


def _show(record: ActionRecord) -> None:
    say(f"{record.kind} {record.action_id} of {record.org} is {record.state}.")
    if record.result:
        say(f"Result: {json_format.dumps(record.result, ensure_ascii=False)}")
    if record.reason:
        say(record.reason)
