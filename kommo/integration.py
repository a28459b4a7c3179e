"""An integration (what other providers call an app): its keys, its consent page, and what it signs.

Facts: kommo-api.md §1.2 (authorize), §1.9 (the hook that tells of an uninstall).
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode, urlsplit

from pydantic import SecretStr

_ACCOUNT_ID = re.compile(r"[0-9]{1,20}")
_NETLOC = re.compile(r"[A-Za-z0-9.:\[\]-]+")


@dataclass(frozen=True, slots=True)
class OAuthApp:
    """An integration, as its settings at Kommo show it [D K/private-integration].

    Attributes:
        client_id: Integration ID, a UUID.
        client_secret: Secret key.
        redirect_uri: Byte for byte as in the settings; Kommo wants it on refresh, too.
        authorize_base: Scheme and host of the consent page, which is on www and not on the account's host.
    """

    client_id: str
    client_secret: SecretStr
    redirect_uri: str
    authorize_base: str = "https://www.kommo.com"


def authorize_url(app: OAuthApp, state: str, *, mode: Literal["popup", "post_message"] = "popup") -> str:
    """The address of Kommo's consent page; redirect URI and scopes are in the integration's settings [D K/oauth-20].

    Args:
        app: The integration.
        state: Comes back with the callback as it is.
        mode: ``popup``: the popup closes and the window that opened it goes to the redirect URI; ``post_message``:
            the redirect happens in the popup.

    Raises:
        ValueError: ``authorize_base`` is not https, nor http on this machine, or is more than scheme and host.
    """
    query = urlencode({"client_id": app.client_id, "state": state, "mode": mode})
    return f"{_checked_base(app.authorize_base)}/oauth?{query}"


def _checked_base(text: str) -> str:
    try:
        parts = urlsplit(text.strip().rstrip("/"))
        host = parts.hostname or ""
        bare = _NETLOC.fullmatch(parts.netloc) and not (parts.path or parts.query or parts.fragment)
    except ValueError:
        host, bare = "", None
    if not (host and bare):
        raise ValueError(
            "The address of the consent page must be scheme and host, such as https://www.kommo.com."
        )
    loopback = host in {"localhost", "127.0.0.1", "::1"} or host.endswith(".localhost")
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise ValueError("The address of the consent page must begin with https://.")
    return f"{parts.scheme}://{parts.netloc}"


def disable_signature(app: OAuthApp, account_id: int) -> str:
    """The signature under the call that tells of an uninstall [D K/oauth-20].

    Args:
        app: The integration.
        account_id: Kommo's account id.
    """
    return _signature(app, str(account_id))


def disable_signature_matches(app: OAuthApp, *, client_uuid: str, account_id: str, signature: str) -> bool:
    """Whether a call of the disable hook is signed by Kommo, in constant time, whatever it holds.

    There is no time in it: the same call is good for ever, also after a new installation. So one call of the API has to
    confirm that the account is gone [D K/oauth-20].

    Args:
        app: The integration.
        client_uuid: ``client_uuid`` as it came.
        account_id: ``account_id`` as it came.
        signature: ``signature`` as it came.
    """
    if not app.client_id or not app.client_secret.get_secret_value() or not _ACCOUNT_ID.fullmatch(account_id):
        return False  # without a secret anybody could sign
    ours = hmac.compare_digest(_bytes(app.client_id), _bytes(client_uuid))
    signed = hmac.compare_digest(_bytes(_signature(app, account_id)), _bytes(signature))
    return ours and signed


def _signature(app: OAuthApp, account_id: str) -> str:
    message = f"{app.client_id}|{account_id}".encode()
    return hmac.new(app.client_secret.get_secret_value().encode(), message, hashlib.sha256).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
