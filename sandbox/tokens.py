"""Access tokens: RS256 JWTs with the claims Kommo puts in (fact sheet 1.7), and the book of those handed out.

The key is made when the process starts: a fixed one would be a secret in the repository. Whether a token is good is
decided by the book, not by its signature, so that revoking works at once. As nobody outside Kommo can verify one,
tokens made by the thousand get a signature that only looks like one.
"""

import base64
import hashlib
import json
import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.accounts import Card
from sandbox.state import Account

ACCESS_SECONDS = 86_400  # [D]


@dataclass(eq=False)
class AccessToken:
    """A token handed out.

    Args:
        value: The JWT.
        account_id: Whose data it opens.
        user_id: Whose rights it carries.
        client_id: Integration.
        scopes: Granted scopes.
        expires_at: Unix seconds.
        serial: Number of the refresh that made it; 0 for long-lived ones.
        revoked: Refused from now on.
    """

    value: str
    account_id: int
    user_id: int
    client_id: str
    scopes: tuple[str, ...]
    expires_at: int
    serial: int = 0
    revoked: bool = False


@cache
def _private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2048)


class TokenBook:
    """Makes and finds access tokens.

    Args:
        now: Unix seconds of the sandbox's clock.
        seed: For the parts of the claims that are only identifiers.
    """

    def __init__(self, now: Callable[[], int], seed: int) -> None:
        self._now = now
        self._random = random.Random(f"tokens:{seed}")  # noqa: S311 - identifiers in a test double
        self._tokens: dict[str, AccessToken] = {}
        self._by_account: defaultdict[int, list[AccessToken]] = defaultdict(list)

    def issue(
        self,
        account: Account | Card,
        user_id: int,
        client_id: str,
        scopes: Iterable[str],
        *,
        seconds: int = ACCESS_SECONDS,
        serial: int = 0,
        age: int = 0,
        unsigned: bool = False,
    ) -> AccessToken:
        """A new token.

        Args:
            account: Whose data.
            user_id: Whose rights.
            client_id: Integration.
            scopes: What it may do.
            seconds: Lifetime.
            serial: Number of the refresh that makes it.
            age: Seconds for which it has been around already.
            unsigned: The signature is a hash that looks like one; twenty times as fast.
        """
        now, granted = self._now() - age, tuple(scopes)
        claims = {
            "aud": client_id,
            "jti": f"{self._random.getrandbits(320):080x}",
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "sub": str(user_id),
            "grant_type": "",
            "account_id": account.id,
            "base_domain": account.top_domain,
            "version": 2,
            "scopes": list(granted),
            "hash_uuid": str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            "api_domain": f"api-c.{account.top_domain}",
        }
        value = _looks_signed(claims) if unsigned else jwt.encode(claims, _private_key(), algorithm="RS256")
        token = AccessToken(value, account.id, user_id, client_id, granted, now + seconds, serial)
        self._tokens[value] = token
        self._by_account[account.id].append(token)
        return token

    def find(self, value: str) -> AccessToken | None:
        """The token, if it is known, in time and not revoked."""
        token = self._tokens.get(value)
        if token is None or token.revoked or token.expires_at <= self._now():
            return None
        return token

    def revoke(self, account_id: int, wanted: Callable[[AccessToken], bool]) -> int:
        """Refuse every token of an account that fits from now on; how many there were."""
        hit = [token for token in self._by_account[account_id] if not token.revoked and wanted(token)]
        for token in hit:
            token.revoked = True
        return len(hit)


def _looks_signed(claims: dict[str, object]) -> str:
    parts = ({"typ": "JWT", "alg": "RS256"}, claims)
    signed = ".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    return f"{signed}.{_base64(hashlib.shake_256(signed.encode()).digest(256))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
