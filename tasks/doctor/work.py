"""What waits: webhooks, events, dead letters, pairs of tokens."""

from datetime import datetime, timedelta

from store.checkup import pairs_waiting
from store.gauges import Gauges, read_gauges
from tasks.doctor.checks import Check, Finding, fault, ok, warning
from tasks.doctor.surroundings import Surroundings

GROUP = "Work"
STALE = timedelta(minutes=5)
UNPROMOTED = timedelta(minutes=10)
LEAST_COMPLETE = 0.99


async def _gauges(around: Surroundings) -> Gauges:
    database = await around.database()
    return await around.shared("gauges", lambda: read_gauges(database))


def _since(moment: datetime | None, now: datetime) -> timedelta:
    return now - moment if moment is not None else timedelta()


async def _backlog(around: Surroundings) -> list[Finding]:
    found = await _gauges(around)
    age = _since(found.oldest_received_at, around.clock.now())
    if age > STALE:
        return fault(
            f"{found.pending} webhook events wait, the oldest for {age.total_seconds() / 60:.0f} min.",
            "kommo webhooks backlog (which org, and why); kommo backlog works it off",
        )
    return ok(f"{found.pending} webhook events wait.")


async def _outbox(around: Surroundings) -> list[Finding]:
    found = await _gauges(around)
    age = _since(found.outbox_oldest_at, around.clock.now())
    if age > STALE and (await around.app()).events_url.get_secret_value():
        return fault(
            f"{found.outbox['pending']} events for the product wait, the oldest for "
            f"{age.total_seconds() / 60:.0f} min.",
            "kommo events test (does the product answer?); kommo events deliver",
        )
    return ok(f"{found.outbox['pending']} events for the product wait.")


async def _dead(around: Surroundings) -> list[Finding]:
    found = await _gauges(around)
    findings = []
    if found.dead or found.unreadable:
        findings += warning(
            f"{found.dead} webhook events were given up, {found.unreadable} deliveries cannot be read.",
            "kommo webhooks dead (each with its reason); then kommo webhooks replay",
        )
    if found.outbox["dead"]:
        findings += warning(
            f"{found.outbox['dead']} events were given up that the product did not take.",
            "kommo events dead (each with its reason); then kommo events replay",
        )
    return findings or ok("There are no dead letters.")


async def _complete(around: Surroundings) -> list[Finding]:
    shares = (await _gauges(around)).completeness
    low = [share for share in shares if share < LEAST_COMPLETE]
    if low:
        return warning(
            f"Of {len(low)} orgs less than {LEAST_COMPLETE:.0%} of the changes came by webhook "
            f"(the worst: {min(low):.0%}).",
            "kommo status (which org); kommo webhooks health",
        )
    return ok("Webhooks are complete where they were compared.")


async def _journal(around: Surroundings) -> list[Finding]:
    some = await pairs_waiting(await around.database(), around.clock.now() - UNPROMOTED)
    if some.count:
        return fault(
            f"{some.count} pairs of tokens wait to be put into their block ({', '.join(some.orgs)}).",
            "kommo refresh (it puts them there; nothing is lost while the sealing keys are kept)",
        )
    return ok("No pair of tokens waits.")


CHECKS = (
    Check("backlog", GROUP, "the backlog of webhooks", _backlog),
    Check("outbox", GROUP, "the outbox", _outbox),
    Check("dead-letters", GROUP, "dead letters", _dead),
    Check("completeness", GROUP, "how complete webhooks are", _complete),
    Check("journal", GROUP, "the token journal", _journal),
)
