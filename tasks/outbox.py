"""What the product is told of connections and syncs (product-contract.md, doors 14 and 15).

An outbox row is written in the transaction that makes it true, so that it exists once and only if it is true.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from store.drift import Drift
from store.outbox import OutboxEvent

PROVIDER = "kommo"
SHOWN_CHANGES = 20
"""So many changes of a drift are told with it; the whole list is in the store (`kommo snapshot diff`)."""


def integration_connected(org: str, account_id: int | None, account_name: str | None) -> OutboxEvent:
    """An org's connection has begun, or works again after a person had been asked to help."""
    return OutboxEvent(
        type="integration_connected",
        org=org,
        subject=org,
        payload={"provider": PROVIDER, "account_id": account_id, "account_name": account_name},
    )


def integration_error(org: str, reason: str, message: str) -> OutboxEvent:
    """An org's connection needs a person, or never came about.

    Args:
        org: The product's tenant.
        reason: A word for programs, such as `token_refused`, `outcome_unknown`, `declined`.
        message: A sentence without secrets.
    """
    return OutboxEvent(
        type="integration_error",
        org=org,
        subject=org,
        payload={"provider": PROVIDER, "reason": reason, "message": message},
    )


def integration_disconnected(org: str, reason: str, message: str) -> OutboxEvent:
    """An org's connection was ended: here by a person, or in Kommo by removing the integration."""
    return OutboxEvent(
        type="integration_disconnected",
        org=org,
        subject=org,
        payload={"provider": PROVIDER, "reason": reason, "message": message},
    )


def reauthorization_required(
    org: str, reason: str, message: str, host: str | None = None
) -> list[OutboxEvent]:
    """Only a person can help an org's connection: an error of the integration, and the connection's new state.

    Args:
        org: The product's tenant.
        reason: A word for programs.
        message: A sentence without secrets.
        host: The account's host.
    """
    facts = {"reason": reason, "message": message, "host": host}
    return [
        integration_error(org, reason, message),
        OutboxEvent("kommo.connection.reauthorization_required", org, org, facts),
    ]


def connection_refreshed(org: str, host: str, expires_at: datetime | None, fingerprint: str) -> OutboxEvent:
    """An org has a new pair of tokens; told once for each pair.

    Args:
        org: The product's tenant.
        host: The account's host.
        expires_at: End of the new access token.
        fingerprint: The pair's; only a hash of it is told, as a part of the event's id.
    """
    facts = {"host": host, "expires_at": None if expires_at is None else expires_at.isoformat()}
    return OutboxEvent(
        "kommo.connection.refreshed", org, org, facts, event_id=_once(org, "refreshed", fingerprint)
    )


def connection_moved(org: str, host: str, moved_from: str) -> OutboxEvent:
    """An org's account has another address now."""
    return OutboxEvent("kommo.connection.moved", org, org, {"host": host, "moved_from": moved_from})


def sync_ended(org: str, run_id: str, state: str, facts: Mapping[str, Any]) -> OutboxEvent:
    """A sync came to its end, well or not; told once for each run and end.

    Args:
        org: The product's tenant.
        run_id: The run.
        state: `completed` or `failed`.
        facts: What is told of it.
    """
    kind = "kommo.sync.completed" if state == "completed" else "kommo.sync.failed"
    return OutboxEvent(kind, org, org, dict(facts), event_id=_once(org, state, run_id))


def drift_facts(drift: Drift) -> dict[str, Any]:
    """What is told of a drift, to the product and to automations alike."""
    return {
        "changes": len(drift.changes),
        "breaking": drift.counts()["breaking"],
        "first": [asdict(change) for change in drift.changes[:SHOWN_CHANGES]],
    }


def drift_detected(org: str, run_id: str, facts: Mapping[str, Any]) -> OutboxEvent:
    """A sync found that a CRM's set-up has changed; told once for each run."""
    return OutboxEvent("kommo.drift.detected", org, org, dict(facts), event_id=_once(org, "drift", run_id))


def _once(*parts: str) -> str:
    """The same id for the same happening, whoever tells it."""
    return hashlib.blake2b("/".join(parts).encode(), digest_size=16).hexdigest()
