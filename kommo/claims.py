"""What a Kommo access token says about itself.

A token is a JWT (RS256) whose public key is not published, so nothing here is verified and nothing here may be believed
about a third party: it only saves a question about a token that we were given anyway [D K/oauth-20, C R#53532717639].
"""

from datetime import UTC, datetime

import jwt
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError


class Claims(BaseModel):
    """The claims that we use; unknown ones are dropped, missing ones are None."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    account_id: int | None = Field(default=None, gt=0, lt=2**63, description="Kommo's account id.")
    sub: str | None = Field(default=None, description="User id, as text.")
    exp: int | None = Field(default=None, description="End of the token, unix seconds.")
    iat: int | None = Field(default=None, description="Issue of the token, unix seconds.")
    base_domain: str | None = None
    api_domain: str | None = None
    scopes: list[str] = Field(default_factory=list)

    @property
    def expires_at(self) -> datetime | None:
        """End of the token in UTC; None where it names none."""
        return moment_of(self.exp)

    @property
    def issued_at(self) -> datetime | None:
        """Issue of the token in UTC; None where it names none."""
        return moment_of(self.iat)


def moment_of(seconds: float | None) -> datetime | None:
    """The moment of so many unix seconds, in UTC; None for none, and for what no calendar has."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def read_claims(token: SecretStr) -> Claims:
    """The claims of a token, unverified; empty claims for anything that is not a JWT."""
    try:
        return Claims.model_validate(
            jwt.decode(token.get_secret_value(), options={"verify_signature": False})
        )
    except (jwt.InvalidTokenError, ValidationError, ValueError, OverflowError, RecursionError):
        return Claims()
