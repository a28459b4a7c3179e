"""Throttling: a sliding one-second window per client address and per account, then the block of the address.

[D K/limitations, K/http-codes] 7 requests a second; over it 429; repeated 429s block the IP, which then gets 403 on
everything. Not documented, chosen here: a refused request does not take a place in the window (else a client that is
a little too fast would never get through), and the block lasts until it is lifted.
"""

from collections import defaultdict, deque
from dataclasses import replace

from sandbox.config import LimitSettings


class Limiter:
    """Decides who is too fast.

    Args:
        settings: Limits; replace them with `configure`.
    """

    def __init__(self, settings: LimitSettings) -> None:
        self.settings = settings
        self.blocked: set[str] = set()
        self._windows: defaultdict[str, deque[float]] = defaultdict(deque)
        self._strikes: defaultdict[str, deque[float]] = defaultdict(deque)

    def configure(self, **changes: float) -> None:
        """Change some settings (names of `LimitSettings`); windows start afresh."""
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]  # names and types come from a JSON body
        self._windows.clear()
        self._strikes.clear()

    def admit(self, client: str, account: str | None, arrived: float) -> bool:
        """Whether the request is within the limits; it takes its place in the windows if so.

        Args:
            client: Address of the peer.
            account: Subdomain, or None on hosts without an account.
            arrived: Epoch seconds.
        """
        wanted = [(f"ip:{client}", self.settings.per_ip)]
        if account is not None:
            wanted.append((f"account:{account}", self.settings.per_account))
        windows = [(self._windows[key], limit) for key, limit in wanted if limit > 0]
        for window, _ in windows:
            while window and window[0] <= arrived - 1.0:
                window.popleft()
        if any(len(window) >= limit for window, limit in windows):
            self._strike(client, arrived)
            return False
        for window, _ in windows:
            window.append(arrived)
        return True

    def _strike(self, client: str, arrived: float) -> None:
        strikes = self._strikes[client]
        strikes.append(arrived)
        while strikes and strikes[0] <= arrived - self.settings.block_window:
            strikes.popleft()
        if self.settings.block_after and len(strikes) >= self.settings.block_after:
            self.blocked.add(client)

    def unblock(self, client: str) -> None:
        """Lift the block of an address and forget its 429s."""
        self.blocked.discard(client)
        self._strikes.pop(client, None)
