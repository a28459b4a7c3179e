"""How often each of the product's keys may knock: a bucket of tokens for each, in this process.

It protects the other keys from one that runs wild, so it need not be exact over processes; Kommo's own limit is, and
is kept elsewhere (R1).
"""

import math
from dataclasses import dataclass

from kommo.clock import Clock

_MOST = 10_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Rates:
    """A bucket of tokens for each key.

    Args:
        clock: Source of time.
        per_second: How many tokens come back in a second.
        burst: How many there are at most.
    """

    def __init__(self, clock: Clock, per_second: float, burst: int) -> None:
        self._clock = clock
        self._per_second = per_second
        self._burst = float(burst)
        self._buckets: dict[str, _Bucket] = {}

    def take(self, key_id: str) -> int:
        """Take a token.

        Args:
            key_id: Whose; the public name of a key that was found to be good.

        Returns:
            0 if there was one, else the whole seconds after which there will be one.
        """
        now = self._clock.monotonic()
        bucket = self._buckets.get(key_id)
        if bucket is None:
            if len(self._buckets) >= _MOST:
                self._buckets.pop(next(iter(self._buckets)))
            bucket = self._buckets[key_id] = _Bucket(self._burst, now)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._per_second)
        bucket.at = now
        if bucket.tokens >= 1.0:
            bucket.tokens -= 1.0
            return 0
        return max(1, math.ceil((1.0 - bucket.tokens) / self._per_second))
