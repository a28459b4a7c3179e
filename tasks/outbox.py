"""What the product is told: the outbox events of connections (product-contract.md, doors 14 and 15).

An outbox row is written in the transaction that makes it true, so that it exists once and only if it is true.
"""

from store.outbox import OutboxEvent

PROVIDER = "kommo"


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
