"""The catalogue: what a person reads in Prefect's UI, what piles up, what the shards cover. No server is needed."""

import re
from typing import Any

import pytest

from deployments.catalogue import CATALOGUE, Queue
from deployments.plan import Plan, Planned, make_plan, takes_shard
from deployments.prefect_yaml import PLACE, render
from flows.webhook_backlog import webhook_backlog
from gateway import first_sync, syncs

PLAN = make_plan()
EACH = pytest.mark.parametrize("planned", PLAN.deployments, ids=lambda planned: planned.full_name)
SECRET = re.compile(r"token|secret|password|api_?key|credential|bearer", re.IGNORECASE)


@EACH
def test_every_parameter_has_a_title_a_description_and_no_secret(planned: Planned) -> None:
    assert planned.schema["additionalProperties"] is False
    for name, shown in planned.schema["properties"].items():
        assert shown["title"][0].isupper(), name
        assert "_" not in shown["title"], name
        assert re.match(r"[A-Z`].{10,}\.$", shown["description"], re.DOTALL), (name, shown["description"])
        assert not SECRET.search(name), name
        # What is required has no default: the form shows an example of what is meant.
        assert "default" in shown or shown.get("examples") or _choices(planned, shown), name


@EACH
def test_a_choice_is_offered_as_one(planned: Planned) -> None:
    for name in ("scope", "entity_type"):
        if shown := planned.schema["properties"].get(name):
            assert _choices(planned, shown), name


def _choices(planned: Planned, shown: Any) -> list[str]:
    if reference := shown.get("$ref"):
        shown = planned.schema["definitions"][reference.rpartition("/")[2]]
    return shown.get("enum") or [one for part in shown.get("anyOf", []) for one in part.get("enum", [])]


@EACH
def test_what_is_given_fits_the_flow_and_a_person_reads_what_it_does_and_costs(planned: Planned) -> None:
    if planned.cron:
        planned.flow.validate_parameters(dict(planned.parameters))
    assert set(planned.parameters) <= set(planned.schema["properties"])
    for part in ("**When to run it by hand:** ", "**What it costs:** "):
        assert part in planned.entry.description
    assert "\n\n" in planned.entry.description


@EACH
def test_nothing_piles_up_while_no_worker_is_there(planned: Planned) -> None:
    """A schedule goes on making runs; of those that waited, no more than a few may run, and the rest must go."""
    if planned.cron is None:
        return
    assert planned.entry.limit is not None
    assert planned.concurrency_options is not None
    assert planned.concurrency_options.collision_strategy == "CANCEL_NEW"


def test_names_are_one_to_one_and_those_that_the_gateway_calls_are_there() -> None:
    names = [planned.full_name for planned in PLAN.deployments]
    assert len(names) == len(set(names))
    assert {*first_sync.DEPLOYMENTS, syncs.DEPLOYMENT} <= set(names)


def test_hourly_syncs_are_off_until_they_are_asked_for() -> None:
    def on(plan: Plan) -> set[str]:
        return {planned.name for planned in plan.deployments if planned.entry.hourly and planned.active}

    assert on(PLAN) == set()
    assert on(make_plan(hourly=True)) == {"hourly-funnels", "hourly-channels", "hourly-fields"}


def test_shards_cover_every_org_once_and_the_plain_name_stays() -> None:
    plan = make_plan(shards=3)
    of = [planned for planned in plan.deployments if planned.entry.entrypoint.endswith("webhook_backlog")]
    assert [(one.name, one.cron is None, one.parameters.get("shard")) for one in of] == [
        ("every-minute", True, None),
        ("every-minute-1-of-3", False, "1/3"),
        ("every-minute-2-of-3", False, "2/3"),
        ("every-minute-3-of-3", False, "3/3"),
    ]
    for one in of[1:]:
        webhook_backlog.validate_parameters(dict(one.parameters))
    # Whoever takes no shard is there once, and is still scheduled.
    for entry in CATALOGUE:
        if not takes_shard(entry):
            assert [p.cron for p in plan.deployments if p.entry is entry] == [entry.cron]
    steady = sum(p.entry.limit or 1 for p in plan.deployments if p.entry.queue is Queue.STEADY and p.cron)
    assert plan.limits[Queue.STEADY] >= steady, "something steady would wait for something else"


def test_the_page_has_every_deployment_as_it_is() -> None:
    text = (PLACE.parents[1] / "docs" / "deployments.md").read_text()
    for planned in PLAN.deployments:
        when = (
            "on demand" if planned.cron is None else f"`{planned.cron}`" + ("" if planned.active else ", off")
        )
        given = ", ".join(f"`{name}={value}`" for name, value in planned.parameters.items()) or "–"
        row = f"`{planned.full_name}` | {when} | `{planned.entry.queue}` | {planned.entry.limit or '–'} | {given}"
        assert f"| {row} |" in text, f"docs/deployments.md should have the row:\n| {row} |"


def test_the_file_for_prefect_deploy_is_what_the_catalogue_says() -> None:
    assert PLACE.read_text() == render(PLAN), "run: python -m deployments.prefect_yaml"
