"""What a failed refresh says about a connection. Facts: kommo-api.md §1.6 (bodies of OAuth errors, moved accounts)."""

import re
from enum import StrEnum

from kommo.errors import ErrorKind, KommoError


class Verdict(StrEnum):
    """What a failed refresh means (T4)."""

    FINAL = "final"
    """Kommo will never take this refresh token: only a person can help, unless the account has moved or another process
    has stored a newer pair."""
    MISCONFIGURED = "misconfigured"
    """Kommo does not accept our integration's own settings: that says nothing about the connection."""
    MAYBE_MOVED = "maybe_moved"
    """Nobody at this address knows the account or the token: the account may have got another subdomain [C PHP]."""
    TEMPORARY = "temporary"
    """It says nothing about the token: try again later."""


# Whatever is wrong with a parameter other than the refresh token is wrong on our side.
_OURS = re.compile(
    r"check the [`'\"]?(?!refresh_token\b)\w+[`'\"]? parameter|redirect uri is not associated with client",
    re.IGNORECASE,
)


def verdict_on_refresh(error: KommoError) -> Verdict:
    """Judge an error that ``OAuthClient.refresh`` raised, by HTTP status and hint [C R#24867027442, G#123, G#315].

    Args:
        error: The error.
    """
    if error.status in {400, 401} and error.kind is ErrorKind.OAUTH_REFUSED:
        return Verdict.MISCONFIGURED if names_our_settings(error.hint) else Verdict.FINAL
    if error.status in {401, 404} or error.kind is ErrorKind.REDIRECTED:
        return Verdict.MAYBE_MOVED
    return Verdict.TEMPORARY


def names_our_settings(hint: str | None) -> bool:
    """Whether the hint complains of client id, client secret, redirect URI or the form of the request.

    Args:
        hint: The ``hint`` of an OAuth error body.
    """
    return hint is not None and _OURS.match(hint.strip()) is not None
