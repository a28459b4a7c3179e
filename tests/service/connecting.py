"""Connecting orgs by the gateway, as the product does it; and asking it for actions."""

import asyncio
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.service.house import House

_AT_A_TIME = 4


def headers(house: House, org: str) -> dict[str, str]:
    """The product's key, and the org that it acts for."""
    return {"Authorization": f"Bearer {house.key}", "X-Kommo-Org": org}


async def connect_all(house: House) -> None:
    """Connect an org to each account of the sandbox, and wait until each was read once."""
    known = await house.steer("accounts", "GET")
    room = asyncio.Semaphore(_AT_A_TIME)
    async with httpx.AsyncClient(base_url=house.gateway, timeout=60) as product:

        async def one(number: int, host: str, subdomain: str) -> None:
            async with room:
                org = f"org-{number:02}"
                await _consent(house, product, org, host, subdomain)
                house.orgs[org] = subdomain

        await asyncio.gather(
            *(
                one(number, account["host"], account["subdomain"])
                for number, account in enumerate(known, start=1)
            )
        )
    for org, subdomain in house.orgs.items():
        state = await house.steer(f"state?account={subdomain}&include=contacts", "GET")
        house.contacts[org] = state["contacts"][0]["id"]
    house.say(f"{len(house.orgs)} orgs connected by the gateway")
    took = await house.until("the first syncs", lambda: _all_read(house), 600)
    house.say(f"all were read once, {took:.0f} s later")


async def _all_read(house: House) -> bool:
    [row] = await house.sql("select count(distinct org) from sync_run where state = 'completed'")
    return int(row[0]) >= len(house.orgs)


async def _consent(house: House, product: httpx.AsyncClient, org: str, host: str, subdomain: str) -> None:
    begun = await product.get(
        "/api/v1/crm/kommo/oauth", params={"domain": host, "format": "json"}, headers=headers(house, org)
    )
    begun.raise_for_status()
    state = parse_qs(urlsplit(begun.json()["url"]).query)["state"][0]
    allowed = await house.steer("authorize", account=subdomain, state=state)
    target = urlsplit(allowed["callback_url"])
    done = await product.get(
        f"{target.path}?{target.query}", headers=headers(house, org), cookies=begun.cookies
    )
    if done.status_code not in {200, 302, 303}:
        raise RuntimeError(f"connecting {org} was answered {done.status_code}: {done.text[:300]}")
