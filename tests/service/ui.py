"""A run started from Prefect's UI in a real Chromium, as an operator does it; pictures of each page."""

import asyncio
import json
from typing import Any

from tests.gateway.browser.chromium import Tab, chromium_path, running_chromium
from tests.service.house import House
from tests.service.triggers import ON_DEMAND, ended

ORG = "org-03"
_TABS = "[role=tab], [class*=tab-navigation] *, [class*=p-tab]"


async def try_ui(house: House) -> dict[str, Any]:
    """Log in, open a deployment, fill its form, submit, look at the run and what it left."""
    program = chromium_path()
    if program is None:
        return {"skipped": "Chromium is not installed (Debian: apt-get install chromium)"}
    pictures = house.folder / "pictures"
    deployment = (await house.prefect.get(ON_DEMAND)).raise_for_status().json()
    base = house.api().removesuffix("/api")
    async with running_chromium(program, house.folder / "profile") as browser:
        tab = await browser.new_tab()

        async def look(name: str, wait: str = "") -> None:
            if wait:
                await tab.until(wait)
            await asyncio.sleep(1.5)  # the page moves into its place
            await tab.picture(pictures / f"{name}.png", width=1280, height=1000)

        await tab.goto(base)
        await tab.until("document.querySelector('input') !== null")
        await look("1-login")
        await _type(tab, "input", house.secrets["PREFECT_API_AUTH_STRING"])
        await _click(tab, "button", "Login")
        await tab.until(
            "localStorage.getItem('prefect-password') !== null && !location.pathname.includes('login')"
        )
        await tab.goto(f"{base}/deployments/deployment/{deployment['id']}")
        await look("2-deployment", _has("full-crm-sync"))
        if await _click(tab, _TABS, "Description"):
            await look("2-description")
        await tab.goto(f"{base}/deployments/deployment/{deployment['id']}/run")
        await look("3-form-empty", _has("Parameters"))
        form = await tab.text()
        await _type(tab, "textarea", ORG)  # org is the first parameter
        await look("4-form-filled")
        await _click(tab, "button", "Submit")
        await tab.until(
            "location.pathname.includes('flow-run') || document.body.innerText.includes('scheduled')"
        )
        await look("5-submitted")
        runs = await house.prefect.post(
            "/flow_runs/filter",
            json={
                "deployments": {"id": {"any_": [deployment["id"]]}},
                "sort": "START_TIME_DESC",
                "limit": 20,
            },
        )
        mine = [run for run in runs.raise_for_status().json() if run["parameters"].get("org") == ORG]
        run = await ended(house, mine[0]["id"])
        await tab.goto(f"{base}/runs/flow-run/{run['id']}")
        await look("6-run", _has(run["name"]))
        if await _click(tab, _TABS, "Artifacts"):
            await look("7-artifacts")
        if await _click(tab, _TABS, "Parameters"):
            await look("8-parameters")
        artifacts = await house.prefect.post(
            "/artifacts/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}, "limit": 50}
        )
        for number, artifact in enumerate(artifacts.raise_for_status().json()):
            await tab.goto(f"{base}/artifacts/artifact/{artifact['id']}")
            await look(f"9-artifact-{number}-{artifact['type']}")
        await tab.goto(f"{base}/deployments")
        await look("10-deployments")
        await tab.goto(f"{base}/work-pools/work-pool/kommo")
        await look("11-work-pool")
        return {
            "run": run["state"]["type"],
            "form names the parameters": all(word in form.lower() for word in ("org", "scope")),
            "artifacts": len(artifacts.json()),
            "pictures": str(pictures),
            "console": [line for line in browser.console if "favicon" not in line][:5],
        }


def _has(text: str) -> str:
    return f"document.body.innerText.includes({json.dumps(text)})"


async def _type(tab: Tab, selector: str, text: str) -> None:
    await tab.until(f"document.querySelector({json.dumps(selector)}) !== null")
    await tab.run(f"document.querySelector({json.dumps(selector)}).focus()")
    await tab.call("Input.insertText", text=text)


async def _click(tab: Tab, selector: str, words: str) -> bool:
    """Click the element that says these words; False if there is none."""
    script = f"""(() => {{
        const found = [...document.querySelectorAll({json.dumps(selector)})]
            .find(one => one.innerText.trim().startsWith({json.dumps(words)}));
        if (found) found.click();
        return Boolean(found);
    }})()"""
    return bool(await tab.run(script))
