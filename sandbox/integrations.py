"""Integrations: their keys, where people and hooks are sent, and the signature under the disable hook."""

import hashlib
import hmac
import uuid
from dataclasses import dataclass
from random import Random
from urllib.parse import urlencode

from sandbox.config import SCOPES, SandboxConfig


@dataclass
class Integration:
    """An integration (what other providers call an app).

    Args:
        client_id: Integration id, a uuid.
        client_secret: 64 characters.
        redirect_uri: Must be repeated byte for byte in every token request.
        scopes: What its tokens may do.
        disable_hook: URL told of an uninstall, or empty.
    """

    client_id: str
    client_secret: str
    redirect_uri: str
    scopes: tuple[str, ...] = SCOPES
    disable_hook: str = ""

    @classmethod
    def seeded(cls, config: SandboxConfig) -> "Integration":
        """The default integration: what the settings leave open is made from the seed."""
        dice = Random(f"integration:{config.seed}")  # noqa: S311 - not a real secret
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        client_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        client_secret = "".join(dice.choice(letters) for _ in range(64))
        return cls(
            config.client_id or client_id,
            config.client_secret or client_secret,
            config.redirect_uri,
            disable_hook=config.disable_hook,
        )

    def callback(self, query: dict[str, str]) -> str:
        """The redirect URI with these parameters.

        Args:
            query: What Kommo adds.
        """
        return _joined(self.redirect_uri, query)

    def hook(self, account_id: int) -> str:
        """The signed URL that tells of an uninstall, or nothing if there is no hook [D K/oauth-20].

        Args:
            account_id: Where it was removed.
        """
        message = f"{self.client_id}|{account_id}".encode()
        signature = hmac.new(self.client_secret.encode(), message, hashlib.sha256).hexdigest()
        query = {"client_uuid": self.client_id, "account_id": str(account_id), "signature": signature}
        return _joined(self.disable_hook, query) if self.disable_hook else ""


def _joined(url: str, query: dict[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
