"""The token source of a client whose connection has a pair: it refreshes by itself, before the end and after a 401."""

import asyncio
import math
from datetime import timedelta

from pydantic import SecretStr

from kommo.clock import Clock
from store.errors import StoreError
from tasks.errors import BlocksUnavailableError, RefreshFailedError
from tasks.refresh import MARGIN, Refresher
from tasks.vault import HeldPair

_TOO_SHORT = timedelta(seconds=30)
"""An access token that is good for less than this is not begun with any more."""
_PAUSE = 60.0
"""Seconds for which a failed refresh is let rest while the old access token is good: not one for each request."""


class RefreshingToken:
    """A `kommo.client.TokenSource` for one org.

    Args:
        refresher: Gives out fresh pairs.
        org: The product's tenant.
        held: The pair to begin with.
        clock: Time.
    """

    def __init__(self, refresher: Refresher, org: str, held: HeldPair, clock: Clock) -> None:
        self._refresher = refresher
        self._org = org
        self._held = held
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._rest_until = -math.inf

    def __repr__(self) -> str:
        return f"RefreshingToken({self._org!r})"

    async def current(self) -> SecretStr:
        """The access token to use now; refreshed when it is about to end.

        Raises:
            ReauthorizationRequiredError: Kommo gave its final word.
            RefreshFailedError: it has ended, and could not be refreshed this time.
        """
        if self._left() > MARGIN:
            return self._held.access_token
        async with self._one_at_a_time:
            if self._left() <= MARGIN:
                still_good = self._left() > _TOO_SHORT
                if still_good and self._clock.monotonic() < self._rest_until:
                    return self._held.access_token
                try:
                    # While the old one is good there is no need to wait for another process that is at it.
                    found = await (
                        self._refresher.fresh(self._org, patience=0.0)
                        if still_good
                        else self._refresher.fresh(self._org)
                    )
                    self._held = found.pair
                except (RefreshFailedError, BlocksUnavailableError, StoreError):
                    if not still_good:
                        raise
                    self._rest_until = self._clock.monotonic() + _PAUSE
            return self._held.access_token

    async def refused(self, token: SecretStr) -> SecretStr | None:
        """Kommo answered 401 to this token: a newer one, for one more try.

        Raises:
            ReauthorizationRequiredError: Kommo gave its final word.
            RefreshFailedError: it could not be refreshed this time.
        """
        async with self._one_at_a_time:
            if self._held.access_token == token:
                self._held = (await self._refresher.fresh(self._org, refused=token)).pair
            return self._held.access_token

    def _left(self) -> timedelta:
        return self._held.expires_at - self._clock.now()
