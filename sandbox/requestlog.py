"""What arrived and when, and how many requests stood in any one-second window."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Entry:
    """One request that arrived.

    Args:
        arrived: Epoch seconds, microseconds in the fraction, taken when the request was complete.
        client: Address of the peer.
        account: Subdomain, or None.
        method: HTTP method.
        path: Path without the query.
        query: The query as sent.
        status: Status answered; 0 when the connection was reset.
        fault: Kind of the fault that struck, or None.
        counted: Whether it took a place in the rate window.
        duration: Seconds spent on the answer, without an asked-for delay.
    """

    arrived: float
    client: str
    account: str | None
    method: str
    path: str
    query: str
    status: int
    fault: str | None
    counted: bool
    duration: float


def busiest(times: Iterable[float]) -> int:
    """The largest number of arrivals in any window [t, t + 1 s).

    A window that begins at an arrival is always among the fullest ones, so it is enough to look at those.
    """
    ordered = sorted(times)
    best = start = 0
    for end, moment in enumerate(ordered):
        while moment - ordered[start] >= 1.0:
            start += 1
        best = max(best, end - start + 1)
    return best


class RequestLog:
    """All requests but those to the control API."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def windows(self) -> dict[str, Any]:
        """The exact maxima, over every arrival and over those that counted.

        Returns:
            total, span (seconds from the first to the last arrival), max_per_account, max_per_ip, and the same two
            `counted_…` without requests that a gateway fault or a block answered.
        """
        times = [entry.arrived for entry in self.entries]
        counted = [entry for entry in self.entries if entry.counted]
        return {
            "total": len(times),
            "span": max(times) - min(times) if times else 0.0,
            "max_per_account": _grouped((entry.account, entry.arrived) for entry in self.entries),
            "max_per_ip": _grouped((entry.client, entry.arrived) for entry in self.entries),
            "counted_max_per_account": _grouped((entry.account, entry.arrived) for entry in counted),
            "counted_max_per_ip": _grouped((entry.client, entry.arrived) for entry in counted),
        }

    def shown(self) -> list[dict[str, Any]]:
        """Entries as JSON."""
        return [asdict(entry) for entry in self.entries]


def _grouped(pairs: Iterable[tuple[str | None, float]]) -> dict[str, int]:
    groups: dict[str, list[float]] = {}
    for key, moment in pairs:
        if key is not None:
            groups.setdefault(key, []).append(moment)
    return {key: busiest(moments) for key, moments in groups.items()}
