"""The ways in which a run is started: by schedule, by Prefect's command line, by its REST API."""

import asyncio
import re
from typing import Any

from tests.service.house import House

FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
ON_DEMAND = "/deployments/name/full-crm-sync/on-demand"


async def ended(house: House, run_id: str, seconds: float = 180) -> dict[str, Any]:
    """A run once it has ended."""
    found: dict[str, Any] = {}

    async def over() -> bool:
        answer = await house.prefect.get(f"/flow_runs/{run_id}")
        answer.raise_for_status()
        found.update(answer.json())
        return found["state"]["type"] in FINAL

    await house.until(f"the end of run {run_id}", over, seconds)
    return found


async def try_triggers(house: House) -> dict[str, Any]:
    """Try each way; says what came of it, and raises if one does not work."""
    answer = await house.prefect.post("/deployments/filter", json={"limit": 200})
    deployments = answer.raise_for_status().json()
    schedules = [
        (deployment["name"], schedule["active"])
        for deployment in deployments
        for schedule in deployment["schedules"]
    ]
    inactive = [name for name, active in schedules if not active]
    paused = [deployment["name"] for deployment in deployments if deployment["paused"]]

    said = await house.command(
        "prefect",
        *(
            "deployment",
            "run",
            "full-crm-sync/on-demand",
            "--param",
            "org=org-01",
            "--param",
            "scope=funnels",
        ),
        "--watch",
    )
    [run_id] = set(re.findall(r"UUID: ([0-9a-f-]{36})", said)) or {""}
    by_command = await ended(house, run_id)

    deployment = (await house.prefect.get(ON_DEMAND)).raise_for_status().json()
    wish = {"parameters": {"org": "org-02", "scope": "fields"}, "idempotency_key": "order-42"}
    answers = [
        await house.prefect.post(f"/deployments/{deployment['id']}/create_flow_run", json=wish)
        for _ in range(2)
    ]
    by_rest = await ended(house, answers[0].json()["id"])
    wrong = await house.prefect.post(
        f"/deployments/{deployment['id']}/create_flow_run", json={"parameters": {"org": "No Org"}}
    )
    result = {
        "deployments": len(deployments),
        "schedules active": f"{len(schedules) - len(inactive)} of {len(schedules)}",
        "inactive or paused": inactive + paused,
        "prefect deployment run": by_command["state"]["type"],
        "REST, twice with one key": [answer.status_code for answer in answers],
        "REST, runs made": len({answer.json()["id"] for answer in answers}),
        "REST, run": by_rest["state"]["type"],
        "REST, wrong parameter": wrong.status_code,
    }
    assert not paused, result
    assert by_command["state"]["type"] == by_rest["state"]["type"] == "COMPLETED", result
    assert result["REST, runs made"] == 1, result
    assert wrong.status_code == 409, result
    await asyncio.sleep(0)
    return result
