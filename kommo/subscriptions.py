"""Where Kommo sends an account's webhooks: look, subscribe, unsubscribe.

Facts: kommo-api.md §5: administrators only (403), not in every plan (402), at most 100 per account. The same
destination again replaces its settings, so subscribing is safe to repeat; a subscription goes by its exact destination.
"""

from dataclasses import dataclass, field

from kommo.client import KommoClient
from kommo.errors import ErrorKind, KommoError

PATH = "/api/v4/webhooks"

NOT_EVERYWHERE: frozenset[str] = frozenset(
    {
        *("update_task", "add_outgoing_message", "add_unsorted", "update_unsorted", "delete_unsorted"),
        *(f"{verb}_customer" for verb in ("add", "update", "delete", "responsible", "note")),
    }
)
"""Names that only one of the two brands documents, that are known from clients only, or whose function can be off in an
account [D changelog, C, I]: an installation may refuse them."""

EVENTS: tuple[str, ...] = (
    *(
        f"{verb}_{kind}"
        for kind in ("lead", "contact", "company")
        for verb in ("add", "update", "delete", "restore", "responsible", "note")
    ),
    "status_lead",
    *("add_task", "delete_task", "responsible_task", "add_talk", "update_talk", "add_message"),
    *sorted(NOT_EVERYWHERE),
)
"""What is subscribed to: all that is understood here and that one can subscribe to [D §5]."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription of the account; its destination may hold a key, so no repr shows it.

    Attributes:
        destination: Where Kommo sends to.
        settings: The names of what it sends.
        disabled: Kommo has switched it off, after too many bad answers [D §6.4].
    """

    destination: str = field(repr=False)
    settings: tuple[str, ...] = ()
    disabled: bool = False


async def list_subscriptions(client: KommoClient) -> list[Subscription]:
    """Every subscription of the account, other programs' ones as well.

    Raises:
        KommoError: `forbidden` if the token is not an administrator's; `payment_required` if the plan has no webhooks.
    """
    return [_subscription(item) for item in await client.read_all("webhooks")]


async def subscribe(
    client: KommoClient, destination: str, settings: tuple[str, ...] = EVENTS
) -> Subscription:
    """Ask Kommo to send events to a destination; what was asked for it before is replaced.

    If the installation does not know one of `NOT_EVERYWHERE`, it is asked again without them.

    Args:
        client: The account's client.
        destination: An https address.
        settings: Names of events.

    Raises:
        KommoError: As `list_subscriptions`; `validation` if Kommo does not take the destination.
    """
    try:
        answer = await client.write("POST", PATH, {"destination": destination, "settings": list(settings)})
    except KommoError as error:
        common = tuple(name for name in settings if name not in NOT_EVERYWHERE)
        if error.kind is not ErrorKind.VALIDATION or common == settings:
            raise
        answer = await client.write("POST", PATH, {"destination": destination, "settings": list(common)})
        settings = common
    told = answer.data if isinstance(answer.data, dict) else {}
    return Subscription(destination, settings, told.get("disabled") is True)


async def unsubscribe(client: KommoClient, destination: str) -> bool:
    """Ask Kommo to send nothing more to a destination.

    Args:
        client: The account's client.
        destination: Exactly as it was subscribed.

    Returns:
        Whether there was such a subscription.

    Raises:
        KommoError: As `list_subscriptions`.
    """
    try:
        await client.write("DELETE", PATH, {"destination": destination})
    except KommoError as error:
        if error.kind is ErrorKind.NOT_FOUND:
            return False
        raise
    return True


def _subscription(item: dict[str, object]) -> Subscription:
    settings = item.get("settings")
    names = (
        settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    )
    return Subscription(
        str(item.get("destination") or ""), tuple(map(str, names)), item.get("disabled") in {True, "1"}
    )
