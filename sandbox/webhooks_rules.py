"""When a webhook is sent again, and when a hook is switched off (fact sheet 6.4)."""

from collections import deque

DISABLING_WINDOW = 2 * 3_600
MOST_BAD = 100
_ALWAYS = {1: 5 * 60, 2: 15 * 60}  # attempts made → seconds until the next one, after any bad answer
_SERVER_ERRORS = {3: 15 * 60, 4: 60 * 60}  # … after 499 and 5xx only


def is_good(status: int) -> bool:
    """Whether an answer counts as taken: 100 to 299; a redirect does not [D]."""
    return 100 <= status <= 299


def next_attempt(made: int, status: int) -> int | None:
    """Seconds until a delivery is tried again, or None if it is lost [D K/webhooks-general].

    Args:
        made: Attempts made so far.
        status: Answer to the last one; 0 = none in time.
    """
    if made in _ALWAYS:
        return _ALWAYS[made]
    if status == 499 or 500 <= status <= 599:
        return _SERVER_ERRORS.get(made)
    return None


class BadAnswers:
    """The bad answers of one hook within the last two hours."""

    def __init__(self) -> None:
        self._moments: deque[float] = deque()

    def add(self, moment: float) -> bool:
        """Count one.

        Args:
            moment: Seconds of the sandbox's clock.

        Returns:
            Whether the hook is to be disabled: more than 100 in two hours, this one, the last, being bad [D].
        """
        self._moments.append(moment)
        return self.count(moment) > MOST_BAD

    def count(self, moment: float) -> int:
        """How many there are in the two hours before a moment."""
        while self._moments and self._moments[0] < moment - DISABLING_WINDOW:
            self._moments.popleft()
        return len(self._moments)
