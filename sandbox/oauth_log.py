"""What the token endpoint was asked, by whom and with which outcome. Tokens appear as SHA-256 fingerprints only."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sandbox.state import Record


def fingerprint(token: str) -> str:
    """The SHA-256 of a token or code, in hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(slots=True)
class TokenCall:
    """One call of the token endpoint.

    Args:
        arrived: Epoch seconds, as in the request log.
        host: Subdomain it was sent to, or None.
        account: Subdomain of the account whose code or refresh token it brought; None if that is nobody's.
        grant: `grant_type` as sent.
        used: Fingerprint of the refresh token it brought, `code:` and that of a code, or None.
        issued: Fingerprint of the refresh token made for it, even if the answer was lost; None if none was.
        status: Status answered; 0 when the connection was reset.
        hint: Kommo's hint, or None.
        fault: Kind of the fault that struck, or None.
    """

    arrived: float
    host: str | None
    account: str | None
    grant: str
    used: str | None
    issued: str | None
    status: int
    hint: str | None
    fault: str | None

    @property
    def refusal(self) -> str | None:
        """Why no pair was made: the hint, the fault or the status; None if one was."""
        return None if self.issued else self.hint or self.fault or f"status {self.status}"


class OAuthLog:
    """All calls of the token endpoint, in the order of their arrival."""

    def __init__(self) -> None:
        self.calls: list[TokenCall] = []

    def shown(self, account: str | None = None) -> Record:
        """The calls as JSON, and what they add up to per account and per token that was brought.

        Args:
            account: Subdomain, to see one account only.
        """
        calls = [call for call in self.calls if account is None or account in {call.account, call.host}]
        by_account: dict[str, list[TokenCall]] = {}
        by_token: dict[str, list[TokenCall]] = {}
        for call in calls:
            by_account.setdefault(call.account or call.host or "", []).append(call)
            if call.used:
                by_token.setdefault(call.used, []).append(call)
        return {
            "calls": [asdict(call) for call in calls],
            "accounts": {name: _sum(found) for name, found in by_account.items()},
            "tokens": {
                token: _sum(found) | {"account": found[0].account} for token, found in by_token.items()
            },
        }


def _sum(calls: Iterable[TokenCall]) -> Record:
    found = list(calls)
    return {
        "calls": len(found),
        "issued": [call.issued for call in found if call.issued],
        "refused": dict(Counter(call.refusal for call in found if call.refusal)),
    }
