"""Prefect events, which automations match on: about orgs, and about the installation as a whole."""

import asyncio

from prefect.events import Event, Resource, emit_event
from prefect.events.clients import get_events_client

INSTALLATION = "kommo.installation"
_PATIENCE = 10.0


def emit_org_event(
    event: str, org: str, payload: dict[str, object], *, labels: dict[str, str] | None = None
) -> None:
    """Emit an event about one org's connection; automations match on `kommo.connection.*` and on labels.

    Args:
        event: what has happened.
        org: the product's tenant.
        payload: what is told with it; automations cannot match on that.
        labels: further labels of the resource, which they can.
    """
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"kommo.connection.{org}",
            "prefect.resource.name": org,
            **(labels or {}),
        },
        payload=payload,
    )


async def tell_of_installation(event: str) -> None:
    """Tell an event about the installation, from a process that is no run: none is kept for later.

    Raises:
        TimeoutError: Prefect's server did not take it within ten seconds.
        Exception: whatever Prefect's client raises when there is none.
    """
    resource = Resource({"prefect.resource.id": INSTALLATION, "prefect.resource.name": "Kommo data plane"})
    async with asyncio.timeout(_PATIENCE), get_events_client(1, checkpoint_every=1) as client:
        await client.emit(Event(event=event, resource=resource))
