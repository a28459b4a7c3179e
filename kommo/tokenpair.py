"""A pair of tokens as the token endpoint gives it: what is in it, when it ends, and which pair it came from.

Facts: kommo-api.md §1.4 (the answer: no account, no scopes, ``server_time`` only since lately), §1.5 (lifetimes), §1.7
(the access token is a JWT, which nobody outside Kommo can verify). Promise T5: nothing here shows a token, unless it
is asked for with ``get_secret_value`` or ``to_json``.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, FiniteFloat, SecretStr, ValidationError

from kommo.claims import moment_of, read_claims

LONGEST_TOKEN = 16 * 1024
"""Characters of one token; about 1000 are usual, and their number is not fixed [D K/get-token]."""
LONGEST_LIFE = 10 * 366 * 86_400
"""Seconds for which an access token may be good; a long-lived one ends after 5 years [D K/long-lived-token]."""
ASSUMED_LIFE = 3600
"""Seconds that a pair is good for whose answer does not say it in a way that can be: to throw the pair away would lose
the connection, since the old refresh token is used up. Documented are 86 400 [D]."""

_TOKEN = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_TOKEN}}}")
_WORD = re.compile(r"[\w.:\-\[\]]{1,253}", re.ASCII)
_MOST_SCOPES = 64


def fingerprint(token: SecretStr) -> str:
    """The SHA-256 of a token, in hex: names it without giving it away.

    Args:
        token: Any token or code.
    """
    return hashlib.sha256(token.get_secret_value().encode("utf-8", "surrogatepass")).hexdigest()


def code_fingerprint(code: SecretStr) -> str:
    """What the first pair of a connection was got with, as ``TokenPair.used`` names it.

    Args:
        code: The authorization code.
    """
    return f"code:{fingerprint(code)}"


@dataclass(frozen=True, slots=True)
class TokenPair:
    """An access token and the refresh token that came with it.

    Attributes:
        access_token: Good until ``expires_at``.
        refresh_token: Good for three months, and once [D K/oauth-20].
        expires_at: End of the access token in UTC on our clock; rather too early than too late.
        received_at: When the answer was here, in UTC on our clock.
        used: Fingerprint of the refresh token that was used up for this pair, or ``code:`` and that of the code.
        account_id: Kommo's account id, from the access token, unverified.
        scopes: What it may do, from the access token, unverified.
        api_domain: Host that knows where accounts have moved to, from the access token, unverified: to be
            checked by ``parse_host`` before anything is sent there.
        issued_at: When Kommo made the access token, from the token, unverified, on Kommo's clock.
        server_skew: Seconds by which Kommo's clock is ahead of ours; None where Kommo did not name its time.
    """

    access_token: SecretStr
    refresh_token: SecretStr
    expires_at: datetime
    received_at: datetime
    used: str
    account_id: int | None = None
    scopes: tuple[str, ...] = ()
    api_domain: str | None = None
    issued_at: datetime | None = None
    server_skew: float | None = None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the refresh token: the name of this pair."""
        return fingerprint(self.refresh_token)

    def to_json(self) -> str:
        """The whole pair with its tokens in the clear, to be sealed at once and kept nowhere else."""
        return json.dumps(
            {
                "access_token": self.access_token.get_secret_value(),
                "refresh_token": self.refresh_token.get_secret_value(),
                "expires_at": _text(self.expires_at),
                "received_at": _text(self.received_at),
                "used": self.used,
                "account_id": self.account_id,
                "scopes": self.scopes,
                "api_domain": self.api_domain,
                "issued_at": _text(self.issued_at) if self.issued_at else None,
                "server_skew": self.server_skew,
            },
            separators=(",", ":"),
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read back what ``to_json`` wrote.

        Args:
            text: The opened text.

        Raises:
            ValueError: It is something else; the message does not repeat it.
        """
        kept = _kept(text)
        del text  # nobody who looks at the traceback shall find it
        if kept is None:
            raise ValueError("This is not a pair of tokens as it was put away.")
        return cls(
            access_token=kept.access_token,
            refresh_token=kept.refresh_token,
            expires_at=kept.expires_at.astimezone(UTC),
            received_at=kept.received_at.astimezone(UTC),
            used=kept.used,
            account_id=kept.account_id,
            scopes=kept.scopes,
            api_domain=kept.api_domain,
            issued_at=kept.issued_at.astimezone(UTC) if kept.issued_at else None,
            server_skew=kept.server_skew,
        )


class _Kept(BaseModel):
    """What ``to_json`` writes; what a later version adds to it is skipped."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    access_token: SecretStr
    refresh_token: SecretStr
    expires_at: AwareDatetime
    received_at: AwareDatetime
    used: str
    account_id: int | None = None
    scopes: tuple[str, ...] = ()
    api_domain: str | None = None
    issued_at: AwareDatetime | None = None
    server_skew: FiniteFloat | None = None


def _kept(text: str) -> _Kept | None:
    try:
        return _Kept.model_validate(json.loads(text))
    except (ValidationError, ValueError, RecursionError, TypeError):
        return None


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def pair_from_answer(data: object, *, used: str, sent_at: datetime, received_at: datetime) -> TokenPair | str:
    """The pair in an answer of the token endpoint, or a half-sentence about why there is none.

    An access token is good for ``expires_in`` seconds from the moment it was made, which was after ``sent_at``; on
    Kommo's clock it ends at ``server_time + expires_in``. The earlier of the two counts, unless the clocks are so far
    apart (half of the life of the token) that one of them must be wrong: then only the seconds count.

    Args:
        data: The JSON of the answer.
        used: What was used up for it, see ``TokenPair.used``.
        sent_at: When the request went out, in UTC on our clock.
        received_at: When the answer was here, in UTC on our clock.
    """
    if not isinstance(data, dict):
        return "it is not an object"
    for name in ("access_token", "refresh_token"):
        if not (isinstance(data.get(name), str) and _TOKEN.fullmatch(data[name])):
            return f"it has no {name} that can be one"
    life = _life(data.get("expires_in"))
    access_token = SecretStr(data["access_token"])
    server_time = _server_time(data.get("server_time"))
    expires_at = sent_at + timedelta(seconds=life)
    skew = None if server_time is None else (server_time - received_at).total_seconds()
    if server_time is not None and skew is not None and abs(skew) < life / 2:
        expires_at = min(expires_at, server_time + timedelta(seconds=life))
    claims = read_claims(access_token)
    return TokenPair(
        access_token=access_token,
        refresh_token=SecretStr(data["refresh_token"]),
        expires_at=expires_at,
        received_at=received_at,
        used=used,
        account_id=claims.account_id,
        scopes=tuple(scope for scope in claims.scopes if _WORD.fullmatch(scope))[:_MOST_SCOPES],
        api_domain=claims.api_domain if claims.api_domain and _WORD.fullmatch(claims.api_domain) else None,
        issued_at=claims.issued_at,
        server_skew=skew,
    )


def _life(value: Any) -> int:  # noqa: ANN401  whatever Kommo sent
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 12:
        value = int(value)
    good = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LONGEST_LIFE
    return int(value) if good else ASSUMED_LIFE


def _server_time(value: Any) -> datetime | None:  # noqa: ANN401  whatever Kommo sent
    """The optional ``server_time``: what cannot be a time of our days counts as not named."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    moment = moment_of(value)
    return moment if moment is not None and 2000 <= moment.year < 2200 else None
