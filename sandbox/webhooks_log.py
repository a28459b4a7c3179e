"""What became of every webhook: waiting, delivered, lost; with each attempt and its answer."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from sandbox.state import Account, Record
from sandbox.webhooks_body import Item

State = Literal["waiting", "sending", "delivered", "lost"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request.

    Args:
        moment: Seconds of the sandbox's clock at which it was begun.
        status: Answer; 0 = none in time.
        seconds: How long it took, in real seconds.
        reason: Why there was no answer.
    """

    moment: float
    status: int
    seconds: float
    reason: str = ""


@dataclass(slots=True, eq=False)
class Delivery:
    """One body on its way to one hook.

    Args:
        number: Counted from 1.
        account: Whose.
        hook_id: The subscription; None = a stage's automation or a body put together by hand.
        destination: Where to.
        names: Subscriptions that it belongs to.
        entities: Word, action and id of everything in the body.
        body: The bytes.
        request_id: Value of X-amoCRM-RequestID.
        made: When the change (of several the last one) happened, on the sandbox's clock.
        due: When it is to be sent (again).
        repeats: Whether it is tried again after a bad answer.
        copy_of: Number of the delivery that it repeats byte for byte.
        state: What became of it.
        reason: Why it was lost.
        attempts: Requests so far.
        digest: SHA-256 of the body, in hex.
    """

    number: int
    account: Account
    hook_id: int | None
    destination: str
    names: tuple[str, ...]
    entities: tuple[tuple[str, str, str], ...]
    body: bytes
    request_id: str
    made: float
    due: float
    repeats: bool = True
    copy_of: int | None = None
    state: State = "waiting"
    reason: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    digest: str = ""

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256(self.body).hexdigest()

    def __lt__(self, other: "Delivery") -> bool:
        return (self.due, self.number) < (other.due, other.number)

    def shown(self) -> Record:
        """As JSON."""
        return {
            "number": self.number,
            "account": self.account.subdomain,
            "account_id": self.account.id,
            "hook_id": self.hook_id,
            "destination": self.destination,
            "names": list(self.names),
            "entities": [list(entity) for entity in self.entities],
            "request_id": self.request_id,
            "digest": self.digest,
            "body": self.body.decode("ascii"),
            "made": self.made,
            "due": self.due if self.state == "waiting" else None,
            "copy_of": self.copy_of,
            "state": self.state,
            "reason": self.reason,
            "attempts": [
                {"moment": known.moment, "status": known.status, "seconds": known.seconds}
                | ({"reason": known.reason} if known.reason else {})
                for known in self.attempts
            ],
        }


def entities_of(items: Iterable[Item]) -> tuple[tuple[str, str, str], ...]:
    """Word, action and id of the items of a body."""
    return tuple((item.word, item.action, _id(item.content)) for item in items)


def _id(content: Record) -> str:
    inner: Record = content["note"] if isinstance(content.get("note"), dict) else content
    return str(next((inner[key] for key in ("id", "uid", "talk_id") if inner.get(key) is not None), ""))


class DeliveryLog:
    """All deliveries, in the order in which they were made."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self.deliveries)

    def counts(self) -> Record:
        """How many are waiting, under way, delivered and lost, and why those are lost."""
        states = Counter(known.state for known in self.deliveries)
        reasons = Counter(known.reason for known in self.deliveries if known.state == "lost")
        return {
            "made": len(self.deliveries),
            **{state: states[state] for state in ("waiting", "sending", "delivered", "lost")},
            "attempts": sum(len(known.attempts) for known in self.deliveries),
            "reasons": dict(reasons),
        }

    def chosen(self, account_id: int | None, state: str | None, limit: int, after: int) -> list[Record]:
        """Some of them as JSON, oldest first.

        Args:
            account_id: Of this account only.
            state: In this state only.
            limit: At most so many.
            after: From this number on, without it.
        """
        found = (
            known
            for known in self.deliveries[after:]
            if account_id in {None, known.account.id} and state in {None, known.state}
        )
        return [known.shown() for known, _ in zip(found, range(limit), strict=False)]
