"""Sealing: what the token journal keeps is unreadable without the keys of the integration (T5).

Fernet (AES-128-CBC with HMAC-SHA256) with any number of keys: the first one seals, all of them open. So keys are
rotated by putting a new one in front, sealing again what lies there, and dropping the old one.
"""

import base64
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from store.errors import SealBrokenError, SealKeyError

_PURPOSE = b"kommo-data-plane token journal v1"


def new_key() -> SecretStr:
    """A fresh key, as it is written into the `KommoApp` block."""
    return SecretStr(Fernet.generate_key().decode())


def derived_key(secret: SecretStr) -> SecretStr:
    """The key of an installation that has set none: made from the integration's own secret (HKDF-SHA256).

    It is no weaker than that secret, and dies with it: who makes a new secret at Kommo has to authorize anew anyway
    [D K/private-integration].
    """
    stretched = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(
        secret.get_secret_value().encode()
    )
    return SecretStr(base64.urlsafe_b64encode(stretched).decode())


class Sealer:
    """Seals and opens text.

    Args:
        keys: Fernet keys, the one that seals first.

    Raises:
        SealKeyError: there is no key, or one is not a Fernet key.
    """

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        if not keys:
            raise SealKeyError(
                "There is no key to seal tokens with. Give the KommoApp block a client secret or sealing keys."
            )
        try:
            self._box = MultiFernet([Fernet(key.get_secret_value()) for key in keys])
        except ValueError:
            # Not chained: the original would show the key's length and shape.
            raise SealKeyError(
                "A sealing key of the KommoApp block is not a Fernet key (32 bytes in URL-safe base64). "
                "`kommo keys rotate` makes good ones."
            ) from None

    def __repr__(self) -> str:
        return "Sealer()"

    def seal(self, text: str) -> str:
        """The text, sealed."""
        return self._box.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """The text that was sealed.

        Raises:
            SealBrokenError: no key opens it, or somebody changed it.
        """
        try:
            return self._box.decrypt(sealed).decode()
        except (InvalidToken, ValueError):
            raise SealBrokenError(
                "A sealed token of the journal cannot be opened: its key is not among the sealing keys of the KommoApp "
                "block. Put the old key back behind the new one, or authorize the account again."
            ) from None

    def reseal(self, sealed: str) -> str:
        """The same text, sealed with the first key.

        Raises:
            SealBrokenError: no key opens it.
        """
        return self.seal(self.open(sealed))
