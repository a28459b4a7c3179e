"""Prefect events about orgs: what automations match on."""

from prefect.events import emit_event


def emit_org_event(event: str, org: str, payload: dict[str, object]) -> None:
    """Emit an event about one org's connection; automations match on `kommo.connection.*`."""
    emit_event(
        event,
        resource={"prefect.resource.id": f"kommo.connection.{org}", "prefect.resource.name": org},
        payload=payload,
    )
