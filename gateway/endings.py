"""What each ending of an authorization is called, for machines and for people.

A person is told what happened, what that means, and what to do next; no blame, no codes, nothing to look up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from tasks.authorize import Ending


class Tone(StrEnum):
    """How a page looks: a glance must be enough."""

    GOOD = "good"
    CALM = "calm"
    BAD = "bad"


@dataclass(frozen=True)
class Told:
    """What is told of one ending.

    Attributes:
        status: HTTP status.
        error: The word in `{"error": …}`; empty where it went well.
        tone: How the page looks.
        title: One line.
        what: What happened.
        next: What to do.
        leaves: Whether a window that the product opened closes by itself: nothing is left to read.
    """

    status: int
    error: str
    tone: Tone
    title: str
    what: str
    next: str
    leaves: bool = False


_STATE = "Invalid or expired state"
_TOKENS = "Failed to get tokens"
_START_AGAIN = "Go back to the app and start connecting Kommo again."

ENDINGS: Mapping[Ending, Told] = MappingProxyType(
    {
        Ending.CONNECTED: Told(
            200, "", Tone.GOOD,
            "Kommo is connected",
            "Its pipelines, fields and users are being read now. That takes about a minute.",
            "You can close this window and go on in the app.",
            leaves=True,
        ),
        Ending.DECLINED: Told(
            400, "Access denied", Tone.CALM,
            "You did not allow access",
            "Nothing was connected, and nothing was stored.",
            "If that was by mistake, go back to the app, start again, and press Allow on Kommo's page.",
            leaves=True,
        ),
        Ending.INVALID: Told(
            400, "Invalid request", Tone.BAD,
            "This link is not complete",
            "Something that Kommo sends along is missing. Nothing was stored.",
            _START_AGAIN,
        ),
        Ending.UNKNOWN: Told(
            400, _STATE, Tone.BAD,
            "This link is not known here",
            "It does not belong to a connection that anybody began here. Nothing was stored.",
            _START_AGAIN,
        ),
        Ending.EXPIRED: Told(
            400, _STATE, Tone.CALM,
            "This took too long",
            "For safety, a connection must be finished within 15 minutes of its beginning. Nothing was stored.",
            _START_AGAIN,
        ),
        Ending.USED: Told(
            400, _STATE, Tone.CALM,
            "This link was used before",
            "Each link works once. Going back or reloading the page leads here, and changes nothing.",
            "Look in the app whether Kommo is connected already. If it is not, start again there.",
        ),
        Ending.ELSEWHERE: Told(
            400, _STATE, Tone.BAD,
            "This was begun somewhere else",
            "A connection must be finished in the browser in which it was begun, and for the same workspace. "
            "Nothing was stored.",
            "Go on in that browser, or start again from the app in this one. "
            "If somebody else sent you this link, do not use it.",
        ),
        Ending.WRONG_HOST: Told(
            400, "Invalid request", Tone.BAD,
            "This did not come from Kommo",
            "The address of the account is not one of Kommo's. Nothing was sent there, and nothing was stored.",
            _START_AGAIN,
        ),
        Ending.WRONG_ACCOUNT: Told(
            409, "Connected to another account", Tone.BAD,
            "This is a different Kommo account",
            "Your workspace is connected to another account than the one that you chose. The existing connection "
            "goes on as it was.",
            "Start again and choose the same account as before. To really move to a new one, disconnect the old one "
            "first.",
        ),
        Ending.REFUSED: Told(
            400, _TOKENS, Tone.BAD,
            "Kommo did not accept the connection",
            "Either Kommo's one-time code was no longer good, or the user who pressed Allow has no right to do so. "
            "Nothing was connected.",
            "Start again from the app, as an administrator of the Kommo account.",
        ),
        Ending.MISCONFIGURED: Told(
            400, _TOKENS, Tone.BAD,
            "The app's settings for Kommo are wrong",
            "Kommo does not know this app by the keys that it has. That is not your fault, and nothing was connected.",
            "Tell the people who run the app, with the reference below.",
        ),
        Ending.UNREACHABLE: Told(
            502, _TOKENS, Tone.CALM,
            "Kommo did not answer",
            "Kommo is out of reach or too busy at the moment. Nothing was connected.",
            "Wait some minutes, then start again from the app.",
        ),
    }
)  # fmt: skip
