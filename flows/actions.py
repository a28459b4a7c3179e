"""Actions: what the product, an automation or a person has done at Kommo, each exactly once.

The story of each: check it against the org's own CRM, journal it under its key, send it, look it up if the answer was
lost. All of that is `tasks.actions.perform`; the gateway and the command line call it too, without a flow run, because
a run's start costs seconds (prefect-facts §0; docs/decisions/2026-11-25-actions.md). These flows are for the UI's form
and for whoever triggers by Prefect's API. A run whose action is not at its end yet ends in a state called `UnderWay`,
not `Completed`; what becomes of the action is told by its event. `settle-actions` goes on with what a killed process
has left behind.
"""

import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from blocks.settings import Settings
from flows.parameters import Org
from store.actions import ActionState
from tasks.actions import ActionKind, check_key, make_wish, open_action_session
from tasks.actions.running import (
    ActionAnswer,
    SettleReport,
    perform_action,
    settle_due_actions,
)

UNDER_WAY = "UnderWay"
"""The name of the state in which a run ends whose action is not at its end yet."""

Key = Annotated[
    str | None,
    Field(
        title="Idempotency key",
        description="The same key again gives the same action, and nothing is written twice. By default the run's id.",
        max_length=200,
        examples=["order-4711-thanks"],
    ),
]
EntityId = Annotated[
    int,
    Field(
        title="Entity id", description="Kommo's id of the deal, contact or company.", ge=1, examples=[4711]
    ),
]


@flow(
    name="send-message",
    flow_run_name="message to {entity_type} {entity_id} of {org}",
    description="Send the customer a text in the open conversation that belongs to a deal or a contact.",
    persist_result=False,
)
async def send_message(
    org: Org,
    *,
    entity_type: Annotated[
        Literal["leads", "contacts"],
        Field(title="Entity type", description="Whether the id is that of a deal (leads) or of a contact."),
    ],
    entity_id: EntityId,
    text: Annotated[
        str,
        Field(
            title="Text",
            description="What the customer reads.",
            min_length=1,
            max_length=10_000,
            examples=["Your table is reserved for 7 pm."],
        ),
    ],
    channel: Annotated[
        str | None,
        Field(
            title="Channel",
            description="Only into this channel: its id, name or origin. By default wherever a conversation is open.",
            examples=["whatsapp"],
        ),
    ] = None,
    as_note: Annotated[
        bool,
        Field(title="As a note", description="Write an internal note instead; the customer never sees it."),
    ] = False,
    idempotency_key: Key = None,
) -> ActionAnswer:
    """Send a message.

    Args:
        org: the product's tenant.
        entity_type: leads or contacts.
        entity_id: Kommo's id.
        text: what the customer reads.
        channel: only into this channel.
        as_note: an internal note instead.
        idempotency_key: whose repetition is the same action.

    Raises:
        ActionFailedError: it was not sent, with the reason.
    """
    values = {
        "entity_type": entity_type,
        "entity_id": entity_id,
        "text": text,
        "channel": channel,
        "as_note": as_note,
    }
    return await _perform(org, ActionKind.SEND_MESSAGE, values, idempotency_key)


@flow(
    name="create-task",
    flow_run_name="task for {org}",
    description="Create a task for the sales team, once.",
    persist_result=False,
)
async def create_task(
    org: Org,
    *,
    text: Annotated[
        str,
        Field(
            title="Text",
            description="What is to be done.",
            min_length=1,
            max_length=10_000,
            examples=["Call back about the offer"],
        ),
    ],
    complete_till: Annotated[
        int,
        Field(
            title="Due",
            description="Until when: unix time in seconds (not milliseconds).",
            examples=[1_800_000_000],
        ),
    ],
    task_type_id: Annotated[
        int,
        Field(
            title="Task type",
            description="The account's kind of task; 1 is a follow-up, 2 a meeting. "
            "`kommo snapshot show ORG task_types` lists them.",
            ge=1,
            examples=[1],
        ),
    ] = 1,
    responsible_user_id: Annotated[
        int | None,
        Field(
            title="Responsible user",
            description="Kommo's id of who does it; without one, the token's own user.",
            ge=1,
            examples=[123],
        ),
    ] = None,
    entity_id: Annotated[
        int | None,
        Field(
            title="Entity id",
            description="Kommo's id of what the task belongs to; without one it belongs to nothing.",
            ge=1,
            examples=[4711],
        ),
    ] = None,
    entity_type: Annotated[
        Literal["leads", "contacts", "companies"] | None,
        Field(title="Entity type", description="What the entity id is the id of; needed with one."),
    ] = None,
    idempotency_key: Key = None,
) -> ActionAnswer:
    """Create a task.

    Args:
        org: the product's tenant.
        text: what is to be done.
        complete_till: until when, in unix seconds.
        task_type_id: the account's kind of task.
        responsible_user_id: who does it.
        entity_id: Kommo's id of what it belongs to.
        entity_type: leads, contacts or companies.
        idempotency_key: whose repetition is the same action.

    Raises:
        ActionFailedError: it was not created, with the reason.
    """
    values = {
        "text": text,
        "complete_till": complete_till,
        "task_type_id": task_type_id,
        "responsible_user_id": responsible_user_id,
        "entity_id": entity_id,
        "entity_type": entity_type,
    }
    return await _perform(org, ActionKind.CREATE_TASK, values, idempotency_key)


@flow(
    name="update-deal-field",
    flow_run_name="field {field_id} of deal {deal_id} of {org}",
    description="Give one field of a deal a new value.",
    persist_result=False,
)
async def update_deal_field(
    org: Org,
    *,
    deal_id: Annotated[
        int, Field(title="Deal id", description="Kommo's id of the deal.", ge=1, examples=[4711])
    ],
    field_id: Annotated[
        int | str,
        Field(
            title="Field",
            description="A custom field's id or code, or name, price, status_id, responsible_user_id.",
            examples=["price"],
        ),
    ],
    # Required: left out by mistake, it must not clear the field.
    value: Annotated[  # noqa: ANN401 - any JSON
        Any,
        Field(
            title="Value", description="The new value, as JSON; null clears a custom field.", examples=[5000]
        ),
    ],
    idempotency_key: Key = None,
) -> ActionAnswer:
    """Update a field.

    Args:
        org: the product's tenant.
        deal_id: Kommo's id of the deal.
        field_id: which field.
        value: its new value.
        idempotency_key: whose repetition is the same action.

    Raises:
        ActionFailedError: it was not updated, with the reason.
    """
    values = {"deal_id": deal_id, "field_id": field_id, "value": value}
    return await _perform(org, ActionKind.UPDATE_DEAL_FIELD, values, idempotency_key)


@flow(
    name="add-note",
    flow_run_name="note on {entity_type} {entity_id} of {org}",
    description="Leave an internal note; the customer never sees it.",
    persist_result=False,
)
async def add_note(
    org: Org,
    *,
    entity_type: Annotated[
        Literal["leads", "contacts", "companies"],
        Field(title="Entity type", description="What the entity id is the id of; a deal is one of leads."),
    ],
    entity_id: EntityId,
    text: Annotated[
        str,
        Field(
            title="Text",
            description="The note; people in the CRM read it, the customer does not.",
            min_length=1,
            max_length=10_000,
            examples=["Asked for a second offer."],
        ),
    ],
    idempotency_key: Key = None,
) -> ActionAnswer:
    """Add a note.

    Args:
        org: the product's tenant.
        entity_type: leads, contacts or companies.
        entity_id: Kommo's id.
        text: the note.
        idempotency_key: whose repetition is the same action.

    Raises:
        ActionFailedError: it was not added, with the reason.
    """
    values = {"entity_type": entity_type, "entity_id": entity_id, "text": text}
    return await _perform(org, ActionKind.ADD_NOTE, values, idempotency_key)


@flow(
    name="settle-actions",
    flow_run_name="settle actions",
    description="Go on with the actions that a killed process left behind; look up again what is unknown.",
    persist_result=False,
)
async def settle_actions(
    orgs: Annotated[list[Org] | None, Field(title="Only these orgs", description="Without any, all.")] = None,
) -> SettleReport:
    """Settle actions.

    Args:
        orgs: only these.

    Returns:
        How many were taken up, and how many are open yet.
    """
    async with open_action_session(Settings()) as session:
        return await settle_due_actions(session, orgs)


async def _perform(org: str, kind: ActionKind, values: Mapping[str, object], key: str | None) -> ActionAnswer:
    # An empty key is no key: it comes from a variable that is not set, and repetitions would not be seen as such.
    key = check_key((flow_run.get_id() or uuid.uuid4().hex) if key is None else key)
    wish = make_wish(kind, values)
    async with open_action_session(Settings()) as session:
        answer = await perform_action(session, org, wish, key)
    if answer.state is ActionState.CONFIRMED:
        return answer
    # It goes on by itself: nobody should take it for done, nor for failed and ask for it again under another key.
    message = f"The action {answer.action_id} is {answer.state.value}. {answer.reason or ''}".rstrip()
    state: State[ActionAnswer] = Completed(name=UNDER_WAY, message=message, data=answer)
    return cast("ActionAnswer", state)  # who calls the flow as a function gets the answer in it
