"""Kommo itself, and the budget of requests to it."""

from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from kommo.errors import KommoError
from kommo.hosts import Host, parse_host
from kommo.transport import Transport
from store.checkup import some_connections
from store.errors import StoreError
from tasks.doctor.checks import Check, Finding, SkippedError, fault, ok, warning
from tasks.doctor.database import MOST_SKEW
from tasks.doctor.probe import probe
from tasks.doctor.surroundings import Surroundings
from tasks.installation import budget_of

GROUP = "Kommo"
USUAL_RATE = 7.0
_OFF_BY_DATE_HEADER = 1.0  # it has whole seconds


async def _stops(around: Surroundings) -> list[Finding]:
    budget = budget_of(await around.database(), around.settings)
    stopped = [key for key in await budget.status() if key.blocked_for > 0]
    if stopped:
        first = stopped[0]
        return fault(
            f"All requests on {first.key} are stopped for {first.blocked_for / 60:.0f} min more: "
            f"{first.blocked_reason or 'no reason was kept'}.",
            f"put the cause right (kommo budget show), then: kommo budget unblock {first.key}",
        )
    return ok("Nothing is stopped.")


async def _rate(around: Surroundings) -> list[Finding]:
    rate = around.settings.requests_per_second
    if rate > USUAL_RATE and not around.settings.sandbox:
        return fault(
            f"KOMMO_REQUESTS_PER_SECOND is {rate:g}; Kommo allows {USUAL_RATE:g} and blocks "
            "the address of who sends more.",
            f"export KOMMO_REQUESTS_PER_SECOND={USUAL_RATE:g}",
        )
    if rate < 1:
        return warning(
            f"KOMMO_REQUESTS_PER_SECOND is {rate:g}: a sync takes minutes.",
            f"export KOMMO_REQUESTS_PER_SECOND={USUAL_RATE:g}",
        )
    return ok(f"{rate:g} requests a second for each account and address.")


async def _reachable(around: Surroundings) -> list[Finding]:
    answered = await _ask(around)
    if isinstance(answered, list):
        return answered
    host, status, date = answered
    if status >= 500:
        return warning(f"Kommo answers {status} at {host}.", "wait; look at https://status.kommo.com")
    if status == 403:
        return fault(
            f"Kommo answers 403 at {host}: it blocks this machine's address.",
            "stop what sends too much, ask Kommo's support to lift the block, then: kommo budget unblock egress:"
            + around.settings.egress,
        )
    if date is None:
        return ok(f"Kommo answers at {host}.")
    skew = around.clock.now().timestamp() - date
    if abs(skew) > MOST_SKEW + _OFF_BY_DATE_HEADER:
        return fault(
            f"This machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} Kommo's.",
            "timedatectl set-ntp true",
        )
    return ok(f"Kommo answers at {host}; the clocks agree.")


async def _ask(around: Surroundings) -> tuple[str, int, float | None] | list[Finding]:
    """One request without a token: host, status, time by Kommo's clock."""
    known = []
    if (await around.database_answer()).error is None:
        try:
            known = await some_connections(await around.database(), 1)
        except (SkippedError, StoreError):
            known = []
    if not known:
        base = (await around.app()).authorize_base
        if around.settings.sandbox and urlsplit(base).scheme == "http":
            # A sandbox: its names need no resolver.
            return await _send(parse_host(urlsplit(base).netloc, allow_loopback=True))
        probed = await probe(base)
        name = urlsplit(base).hostname or base
        if probed.status is None:
            return _away(name, probed.error or "no answer")
        return name, probed.status if probed.status >= 500 else 200, _moment(probed.headers.get("date"))
    try:
        host = parse_host(known[0][1], allow_loopback=around.settings.sandbox)
    except KommoError as error:
        return fault(str(error), "export KOMMO_SANDBOX=1 (demos and tests only)")
    budget = budget_of(await around.database(), around.settings)
    place = await budget.reserve([f"egress:{around.settings.egress}"], "sync")
    if place.blocked_for > 0:
        raise SkippedError("Requests are stopped.")
    if place.granted:
        await around.clock.sleep(place.wait)
    return await _send(host)


async def _send(host: Host) -> tuple[str, int, float | None] | list[Finding]:
    try:
        async with Transport(total_timeout=5.0) as transport:
            answer = await transport.send("GET", host, "/api/v4/account")
    except KommoError as error:
        return _away(host.name, error.kind.value, loopback=host.loopback)
    return host.name, answer.status, _moment(answer.headers.get("date"))


def _away(host: str, why: str, *, loopback: bool = False) -> list[Finding]:
    if loopback:
        return fault(f"The sandbox does not answer at {host} ({why}).", "kommo sandbox")
    return fault(
        f"Kommo cannot be reached at {host} ({why}).",
        f"curl -sS -o /dev/null https://{host} (DNS, firewall; behind a proxy: export HTTPS_PROXY=…)",
    )


def _moment(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text or "").astimezone(UTC).timestamp()
    except (ValueError, TypeError):
        return None


CHECKS = (
    Check("kommo", GROUP, "Kommo's API and clock", _reachable),
    Check("budget-stops", GROUP, "stops of the request budget", _stops),
    Check("budget-rate", GROUP, "the rate of requests", _rate),
)
