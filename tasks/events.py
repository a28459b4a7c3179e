"""Prefect events about orgs: what automations match on."""

from prefect.events import emit_event


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
