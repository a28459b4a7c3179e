"""Prefect's automations as code: who is told of what, and what wakes the backlog.

Each is known by its name, which begins with `kommo: `; one of that name that is not defined here is removed. What is
told goes to a notification block of the operator's choice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from tasks.errors import DataPlaneError
from tasks.events import INSTALLATION

PREFIX = "kommo: "
BACKLOG = "webhook-backlog/every-minute"
_ORGS = "kommo.connection.*"
_EACH = "prefect.resource.id"
_QUIET = timedelta(hours=1)
_PAGE = 200


class AutomationsError(DataPlaneError):
    """The automations could not be made; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Somebody is told.

    Attributes:
        name: what it is called, without the prefix.
        event: the event that it waits for.
        resource: whose.
        says: the text, which may use Prefect's templates.
        labels: further labels that the event's resource must have.
    """

    name: str
    event: str
    resource: str
    says: str
    labels: tuple[tuple[str, str], ...] = ()


_ORG = "{{ event.resource.name }}"
NOTICES = (
    Notice(
        "connection needs reauthorization",
        "kommo.connection.reauthorization_required",
        _ORGS,
        f"The connection of {_ORG} needs a person: kommo status {_ORG}, then have its owner connect again.",
    ),
    Notice(
        "sync keeps failing",
        "kommo.sync.failing",
        _ORGS,
        f"The sync of {_ORG} has failed three times in a row: kommo status {_ORG} says why.",
    ),
    Notice(
        "drift breaks something",
        "kommo.drift.detected",
        _ORGS,
        f"The CRM of {_ORG} has changed in a way that breaks what uses it: kommo snapshot diff {_ORG}",
        labels=(("kommo.severity", "breaking"),),
    ),
    Notice(
        "subscription disabled",
        "kommo.webhooks.disabled",
        _ORGS,
        f"Kommo had switched off the webhooks of {_ORG}: kommo webhooks health; see that the gateway answers.",
    ),
    Notice(
        "dead letters growing",
        "kommo.dead_letters.growing",
        INSTALLATION,
        "Dead letters are growing: kommo webhooks dead, kommo events dead.",
    ),
    Notice(
        "completeness low",
        "kommo.completeness.low",
        INSTALLATION,
        "Less than 99 % of the changes came by webhook: kommo status, kommo webhooks health.",
    ),
    Notice(
        "backlog stale",
        "kommo.backlog.stale",
        INSTALLATION,
        "A webhook event has waited for more than five minutes: kommo webhooks backlog, kommo doctor.",
    ),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One automation that was made, mended or removed: `change` is create, update or remove."""

    name: str
    change: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done, what was as it should be, and what a person should know."""

    steps: tuple[Step, ...]
    unchanged: tuple[str, ...]
    notes: tuple[str, ...] = ()


async def apply_automations(notify: str | None = None, *, keep_notices: bool = False) -> Applied:
    """Make all automations what they are here. It can be repeated.

    Args:
        notify: the notification block as `type/name`, such as `slack-webhook/ops`; None leaves out those that tell
            somebody, and removes the ones there are.
        keep_notices: without `notify`, leave those that tell somebody as they are.

    Raises:
        AutomationsError: there is no such block.
    """
    async with get_client() as client:
        notes = []
        block = await _block_id(client, notify) if notify else None
        if block is None:
            notes.append("Nobody is told anything: say --notify TYPE/NAME, such as slack-webhook/ops.")
        backlog = await _backlog_id(client)
        if backlog is None:
            notes.append(f"There is no deployment {BACKLOG}: nothing wakes the backlog. First: kommo deploy")
        kept = frozenset(f"{PREFIX}{notice.name}" for notice in NOTICES) if keep_notices else frozenset[str]()
        return await _apply(client, wanted(block, backlog), notes, kept if block is None else frozenset())


async def read_automations() -> list[Automation]:
    """Ours, in the order of their names."""
    async with get_client() as client:
        return await _ours(client)


async def remove_automations() -> list[str]:
    """Remove ours, and say which there were."""
    async with get_client() as client:
        found = await _ours(client)
        for one in found:
            await client.delete_automation(one.id)
        return [one.name for one in found]


def wanted(block: UUID | None, backlog: UUID | None) -> list[AutomationCore]:
    """All automations, for a notification block and for the deployment of the backlog, as far as there are any."""
    found = [_zombies()]
    if backlog is not None:
        found.append(_wake(backlog))
    if block is not None:
        found += [_told(notice, block) for notice in NOTICES]
    return found


def _told(notice: Notice, block: UUID) -> AutomationCore:
    return AutomationCore(
        name=PREFIX + notice.name,
        description=f"Tells somebody when {notice.event} happens, for each at most once an hour.",
        trigger=EventTrigger(
            expect={notice.event},
            match={"prefect.resource.id": notice.resource, **dict(notice.labels)},
            for_each={_EACH},
            posture=Posture.Reactive,
            threshold=1,
            within=_QUIET,
        ),
        actions=[SendNotification(block_document_id=block, subject=PREFIX + notice.name, body=notice.says)],
    )


def _wake(backlog: UUID) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}a webhook wakes the backlog",
        description="A webhook's event waits, and no run works off its org: one is started, beside the schedule.",
        trigger=EventTrigger(
            expect={"kommo.webhook.waiting", "kommo.backlog.stale"},
            match={"prefect.resource.id": INSTALLATION},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(seconds=10),
        ),
        actions=[RunDeployment(deployment_id=backlog)],
    )


def _zombies() -> AutomationCore:
    """Prefect's documented way to find runs whose process is gone: the heartbeat stays away."""
    return AutomationCore(
        name=f"{PREFIX}runs without a heartbeat have crashed",
        description="A run whose process is gone is marked as crashed, so that its place is free again.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                *(f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")),
            },
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={_EACH},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=150),
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                message="Its process has not been heard of for two and a half minutes.",
            )
        ],
    )


async def _ours(client: PrefectClient) -> list[Automation]:
    found: list[Automation] = []
    while True:
        page = await client.read_automations(limit=_PAGE, offset=len(found))
        found += page
        if len(page) < _PAGE:
            break
    return sorted((one for one in found if one.name.startswith(PREFIX)), key=lambda one: one.name)


async def _apply(
    client: PrefectClient, all_of_them: Sequence[AutomationCore], notes: Iterable[str], kept: frozenset[str]
) -> Applied:
    there: dict[str, Automation] = {}
    steps: list[Step] = []
    unchanged: list[str] = []
    for one in await _ours(client):
        if one.name in kept:
            continue
        if one.name in there or one.name not in {core.name for core in all_of_them}:
            await client.delete_automation(one.id)
            steps.append(Step(one.name, "remove"))
        else:
            there[one.name] = one
    paused = []
    for core in all_of_them:
        known = there.get(core.name)
        if known is None:
            await client.create_automation(core)
            steps.append(Step(core.name, "create"))
            continue
        if not known.enabled:
            paused.append(f"'{core.name}' is paused by hand; it stays so until somebody resumes it.")
        if _plain(known) == _plain(core):
            unchanged.append(core.name)
        else:
            # Prefect's client sends what was set by name only; and the server takes no owner in an update.
            every = core.model_dump(exclude={"owner_resource"})
            mended = AutomationCore.model_validate({**every, "enabled": known.enabled})
            await client.update_automation(known.id, mended)
            steps.append(Step(core.name, "update"))
    return Applied(tuple(steps), tuple(unchanged), (*notes, *paused))


def _plain(one: AutomationCore) -> dict[str, Any]:
    """What counts when two are compared: what the server adds, and whether somebody has paused it, does not."""
    trigger = one.trigger.model_dump(mode="json")
    trigger.pop("id", None)
    for name in ("after", "expect", "for_each"):
        trigger[name] = sorted(trigger.get(name, ()))
    return {
        "description": one.description,
        "trigger": trigger,
        "actions": [action.model_dump(mode="json") for action in one.actions],
    }


async def _block_id(client: PrefectClient, notify: str) -> UUID:
    kind, _, name = notify.partition("/")
    if not kind or not name:
        raise AutomationsError(f"{notify!r} is not the name of a block such as slack-webhook/ops.")
    try:
        block = await client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound:
        raise AutomationsError(
            f"There is no block {notify} on Prefect's server. Make it in the UI (Blocks), or list what there is: "
            "prefect block ls"
        ) from None
    schema = block.block_schema
    if schema is not None and "notify" not in schema.capabilities:
        raise AutomationsError(
            f"The block {notify} cannot notify anybody: choose one such as slack-webhook/ops."
        )
    return block.id


async def _backlog_id(client: PrefectClient) -> UUID | None:
    try:
        return (await client.read_deployment_by_name(BACKLOG)).id
    except ObjectNotFound:
        return None
