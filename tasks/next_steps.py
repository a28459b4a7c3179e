"""What to do about a connection that is broken, in words that can be typed. Nothing heavy is imported here."""

from collections.abc import Mapping

from store.connection_records import ConnectionState
from store.subscriptions import SubscriptionState

_BY_STATE: Mapping[str, str] = {
    ConnectionState.REAUTHORIZATION_REQUIRED: "connect it again: kommo connect {org} --browser, or the consent page",
    ConnectionState.FAILED: "read the reason, then connect it again: kommo connect {org} --domain {host}",
    ConnectionState.OUTCOME_UNKNOWN: "nothing: the next refresh settles it; at once by kommo refresh {org}",
    ConnectionState.DEGRADED: "wait: it is tried again by itself; at once by kommo sync {org}",
}
_BY_SUBSCRIPTION: Mapping[str, str] = {
    SubscriptionState.DISABLED: "switch its webhooks on again: kommo webhooks health {org}",
    SubscriptionState.MISSING: "subscribe its webhooks again: kommo webhooks health {org}",
}


def next_step(org: str, state: str, host: str, webhooks: str | None) -> str | None:
    """What somebody should do about a connection; None if nothing is to be done.

    Args:
        org: The product's tenant.
        state: The connection's.
        host: The account's host.
        webhooks: The subscription's state, if there is one.
    """
    step = _BY_STATE.get(state)
    if step is None and state in {ConnectionState.CONNECTED, ConnectionState.REFRESHING}:
        step = _BY_SUBSCRIPTION.get(webhooks or "")
    return None if step is None else step.format(org=org, host=host)
