"""What must hold at the end: all that was acknowledged took effect."""

import asyncio
from collections import Counter

from tests.service.house import House
from tests.service.load import Load

SETTLES_WITHIN = 300.0


async def settled(house: House) -> None:
    """Wait until nobody changes anything, and nothing waits: no event, no letter to the product, no action."""
    made, before = 0, -1
    while made != before:
        before = made
        await asyncio.sleep(5)
        made = (await house.steer("webhooks?limit=0", "GET"))["counts"]["made"]

    async def nothing_waits() -> bool:
        [row] = await house.sql(
            "select (select count(*) from webhook_event where state = 'pending')"
            " + (select count(*) from outbox where state = 'pending')"
            " + (select count(*) from action where state in ('intended', 'sent'))"
        )
        return int(row[0]) == 0

    took = await house.until("an empty backlog", nothing_waits, SETTLES_WITHIN)
    house.say(f"nothing waits, {took:.0f} s after the end of the load")


async def faults_of(house: House, load: Load) -> list[str]:
    """Everything that is not as it should be, as sentences; empty if nothing was lost or doubled."""
    return [
        *await _webhooks(house),
        *await _mirror(house),
        *await _outbox(house),
        *await _actions(house, load),
        *await _connections(house),
    ]


async def _webhooks(house: House) -> list[str]:
    """Each delivery that was answered with 200 is there, and each of its events is done."""
    deliveries = (await house.steer("webhooks?limit=1000000", "GET"))["deliveries"]
    acknowledged = Counter(
        delivery["request_id"]
        for delivery in deliveries
        for attempt in delivery["attempts"]
        if attempt["status"] == 200
    )
    kept = Counter(row[0] for row in await house.sql("select request_id from webhook_delivery"))
    lost = sum((acknowledged - kept).values())
    states = {
        row[0]: row[1] for row in await house.sql("select state, count(*) from webhook_event group by state")
    }
    house.say(
        f"webhooks: {sum(acknowledged.values())} acknowledged, {sum(kept.values())} kept; events {states}"
    )
    faults = [f"{lost} acknowledged webhooks are not in the store"] if lost else []
    return faults + [
        f"{count} events are {state}" for state, count in states.items() if state not in {"done", "duplicate"}
    ]


async def _mirror(house: House) -> list[str]:
    """What the mirror says of each lead is what the sandbox holds, where a webhook of its last change was taken."""
    wrong = 0
    looked = 0
    for org, subdomain in house.orgs.items():
        state = await house.steer(f"state?account={subdomain}&include=leads", "GET")
        mirrored = {
            row[0]: (row[1], row[2], row[3])
            for row in await house.sql(
                "select record_id, name, status_id, responsible_user_id from record"
                " where org = $1 and entity = 'leads'",
                org,
            )
        }
        held = {
            lead["id"]: (lead["name"], lead["status_id"], lead["responsible_user_id"])
            for lead in state["leads"]
        }
        stale = await _untold(house, subdomain)
        for number, found in mirrored.items():
            if number in held and number not in stale:
                looked += 1
                wrong += found != held[number]
    house.say(f"mirror: {looked} leads compared")
    return [f"{wrong} of {looked} mirrored leads differ from Kommo's"] if wrong else []


async def _untold(house: House, subdomain: str) -> set[int]:
    """Leads of which the last change could not be told: Kommo still repeats it, or has given up."""
    deliveries = (await house.steer(f"webhooks?limit=1000000&account={subdomain}", "GET"))["deliveries"]
    last: dict[int, bool] = {}
    for delivery in sorted(deliveries, key=lambda known: known["made"]):
        for word, _, number in delivery["entities"]:
            if word == "leads":
                last[int(number)] = delivery["state"] == "delivered"
    return {number for number, told in last.items() if not told}


async def _outbox(house: House) -> list[str]:
    """Each event was told to the product at least once, and nothing else was."""
    rows = await house.sql("select event_id, state from outbox")
    untold = [row[0] for row in rows if house.product.times[row[0]] == 0]
    unknown = house.product.times.keys() - {row[0] for row in rows}
    again = sum(times - 1 for times in house.product.times.values())
    house.say(f"outbox: {len(rows)} events told, {again} of them more than once")
    faults = [f"{len(untold)} events were never told to the product"] if untold else []
    if house.product.forged or unknown:
        faults.append(
            f"the product was told {len(unknown)} unknown and {house.product.forged} unsigned events"
        )
    dead = Counter(row[1] for row in rows if row[1] != "delivered")
    return faults + [f"{count} events of the outbox are {state}" for state, count in dead.items()]


async def _actions(house: House, load: Load) -> list[str]:
    """Each action that was answered as done is there once; none is there twice."""
    made: Counter[tuple[str, str]] = Counter()
    for org, subdomain in house.orgs.items():
        state = await house.steer(f"state?account={subdomain}&include=tasks", "GET")
        made.update((org, task["text"]) for task in state["tasks"] if str(task["text"]).startswith("action-"))
    states = {row[0]: row[1] for row in await house.sql("select idempotency_key, state from action")}
    said = Counter(states.get(key, "absent") for key in load.keys)
    house.say(f"actions: {len(load.keys)} asked for, {dict(said)}; {sum(made.values())} tasks made")
    twice = [key for (_, key), times in made.items() if times > 1]
    missing = [
        key
        for key, (org, told) in load.keys.items()
        if "confirmed" in {told, states.get(key)} and not made[org, key]
    ]
    faults = [f"{len(twice)} actions were done twice: {twice[:5]}"] if twice else []
    if missing:
        faults.append(f"{len(missing)} confirmed actions were not done: {missing[:5]}")
    return faults + [
        f"{count} actions ended as {state}" for state, count in said.items() if state != "confirmed"
    ]


async def _connections(house: House) -> list[str]:
    """Each connection works, and holds the refresh token that Kommo would take."""
    rows = await house.sql("select org, state, reason from connection")
    bad = [f"{row[0]} is {row[1]} ({row[2]})" for row in rows if row[1] != "connected"]
    alive = {known["fingerprint"] for known in (await house.steer("alive", accounts="all"))["alive"]}
    newest = await house.sql(
        "select distinct on (org) org, fingerprint from token_journal where dead_at is null order by org, id desc"
    )
    dead = [row[0] for row in newest if row[1] not in alive]
    house.say(f"connections: {len(rows)}, refresh tokens that Kommo takes: {len(newest) - len(dead)}")
    return bad + ([f"no token that Kommo would take: {', '.join(dead)}"] if dead else [])
