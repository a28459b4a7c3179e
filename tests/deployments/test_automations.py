"""Automations on a real Prefect server: applied twice they are the same, what was changed by hand is mended."""

from collections.abc import AsyncIterator

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import DoNothing
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from pydantic import SecretStr

from deployments.apply import apply, read_ours
from deployments.automations import (
    NOTICES,
    PREFIX,
    AutomationsError,
    apply_automations,
    read_automations,
    remove_automations,
)
from deployments.catalogue import CATALOGUE
from deployments.plan import make_plan

# What Prefect's notification blocks import is older than Python 3.11.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
async def client(prefect_api: str) -> AsyncIterator[PrefectClient]:
    del prefect_api
    async with get_client() as client:
        plan = make_plan(catalogue=[one for one in CATALOGUE if "webhook_backlog" in one.entrypoint])
        await apply(plan)
        await remove_automations()  # those of a deployment that another test has made on the session's server
        from prefect.blocks.notifications import SlackWebhook

        await SlackWebhook(url=SecretStr("https://hooks.slack.com/services/T1/B1/x")).save(
            "ops", overwrite=True
        )
        yield client
        await remove_automations()
        for there in (await read_ours(client)).values():
            await client.delete_deployment(there.id)
        await client.delete_work_pool("kommo")


async def test_applied_twice_they_are_the_same_and_nobody_elses_is_touched(client: PrefectClient) -> None:
    theirs = await client.create_automation(
        AutomationCore(name="theirs", trigger=EventTrigger(expect={"x"}), actions=[DoNothing()])
    )
    left = await client.create_automation(
        AutomationCore(name=f"{PREFIX}of old", trigger=EventTrigger(expect={"x"}), actions=[DoNothing()])
    )
    first = await apply_automations("slack-webhook/ops")
    assert {step.change for step in first.steps} == {"create", "remove"}
    assert len(first.steps) == len(NOTICES) + 3
    second = await apply_automations("slack-webhook/ops")
    assert second.steps == ()
    found = {one.name: one for one in await read_automations()}
    assert left not in {one.id for one in found.values()}
    drift = found[f"{PREFIX}drift breaks something"]
    assert isinstance(drift.trigger, EventTrigger)
    assert drift.trigger.model_dump()["match"]["kommo.severity"] == "breaking"

    zombies = found[f"{PREFIX}runs without a heartbeat have crashed"]
    assert zombies.actions[0].state is StateType.CRASHED  # type: ignore[union-attr]  # of the kind that has one
    await client.pause_automation(zombies.id)
    other = AutomationCore(name=drift.name, trigger=EventTrigger(expect={"y"}), actions=[DoNothing()])
    # Prefect's client sends only what was set by name.
    await client.update_automation(
        drift.id, AutomationCore.model_validate(other.model_dump(exclude={"owner_resource"}))
    )
    third = await apply_automations("slack-webhook/ops")
    assert [(step.name, step.change) for step in third.steps] == [(drift.name, "update")]
    assert any("paused by hand" in note for note in third.notes)
    assert not (await client.read_automation(zombies.id)).enabled  # type: ignore[union-attr]  # it is there

    assert len(await remove_automations()) == len(NOTICES) + 2
    assert await client.read_automation(theirs)
    await client.delete_automation(theirs)


async def test_a_block_that_is_not_there_is_named_and_nothing_is_made(client: PrefectClient) -> None:
    del client
    with pytest.raises(AutomationsError, match="slack-webhook/nobody"):
        await apply_automations("slack-webhook/nobody")
    assert await read_automations() == []
    without = await apply_automations()
    assert len(without.steps) == 2
    assert any("--notify" in note for note in without.notes)
