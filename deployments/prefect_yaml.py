"""`deployments/prefect.yaml`, written from the catalogue: `python -m deployments.prefect_yaml`.

For whoever deploys with Prefect's own command, from the project's root:
`prefect deploy --prefect-file deployments/prefect.yaml --all`. The work pool must be there; `kommo deploy` makes it.
JSON is YAML, so each value is written as JSON; only the descriptions are blocks, to be read.
"""

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from deployments.plan import Plan, Planned, make_plan

PLACE = Path(__file__).with_name("prefect.yaml")
_HEAD = """\
# Generated from deployments/catalogue.py by `python -m deployments.prefect_yaml`; change it there.
# From the project's root: prefect deploy --prefect-file deployments/prefect.yaml --all
# `kommo deploy` does the same, and makes the pool with its queues, removes what is no longer defined, gives the forms
# their titles, and has unknown parameters refused.
name: kommo-data-plane
# The program is installed wherever its runs are executed: there is nothing to be pulled.
pull: []
deployments:
"""


def render(plan: Plan) -> str:
    """The file's text."""
    return _HEAD + "".join("\n".join(_deployment(plan, planned)) + "\n" for planned in plan.deployments)


def _deployment(plan: Plan, planned: Planned) -> Iterator[str]:
    entry = planned.entry
    yield f"  - name: {json.dumps(planned.name)}  # {planned.full_name}"
    yield f"    entrypoint: {json.dumps(entry.entrypoint)}"
    yield f"    version: {json.dumps(plan.version)}"
    yield f"    tags: {json.dumps(planned.tags)}"
    yield "    description: |"
    yield textwrap.indent(entry.description.rstrip("\n"), "      ")
    yield f"    parameters: {json.dumps(dict(planned.parameters))}"
    yield "    enforce_parameter_schema: true"
    if entry.limit is not None:
        options = {"limit": entry.limit, "collision_strategy": "CANCEL_NEW"}
        yield f"    concurrency_limit: {json.dumps(options)}"
    if planned.cron is None:
        yield "    schedules: null"
    else:
        schedule = {
            "cron": planned.cron,
            "timezone": "UTC",
            "active": planned.active,
            "slug": entry.name,
        }
        yield f"    schedules: [{json.dumps(schedule)}]"
    pool = {"name": plan.pool, "work_queue_name": entry.queue.value, "job_variables": plan.job_variables}
    yield f"    work_pool: {json.dumps(pool)}"


if __name__ == "__main__":
    PLACE.write_text(render(make_plan()))
    sys.stdout.write(f"{PLACE} is written.\n")
