"""Webhook completeness for people: also for commands that only read the store, so nothing heavy is imported here."""


def percent(share: float) -> str:
    """A share for people; 100 % only if nothing is missing."""
    return "100 %" if share == 1 else f"{min(share * 100, 99.9):.1f} %"
