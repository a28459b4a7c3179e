"""`KommoConnection`: one org's access to one Kommo account.

A block is written only by whoever connects or refreshes; nobody else may save it, because Prefect's blocks have
no compare-and-set (prefect-facts: ten concurrent saves keep one).
"""

from datetime import datetime
from typing import ClassVar, Literal

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, HttpUrl, SecretStr

from blocks.app import LOGO
from kommo.budget import Lane, RateBudget
from kommo.client import ATTEMPTS, KommoClient, StaticToken, TokenSource
from kommo.hosts import parse_host
from kommo.transport import Transport

LONG_LIVED: Literal["long_lived"] = "long_lived"
PAIR: Literal["pair"] = "pair"


class KommoConnection(CredentialsBlock):
    """One org's access to one Kommo account: its host and its tokens.

    Example:
        Load a connection and read the account:
        ```python
        from blocks.connection import KommoConnection

        connection = KommoConnection.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str] = "Kommo Connection"
    _block_type_slug: ClassVar[str] = "kommo-connection"
    _logo_url: ClassVar[HttpUrl] = LOGO
    _documentation_url: ClassVar[HttpUrl] = HttpUrl("https://developers.kommo.com/docs/long-lived-token")
    model_config = ConfigDict(hide_input_in_errors=True)

    org: str = Field(
        default="", title="Org", description="The product's tenant that this account belongs to."
    )
    host: str = Field(
        default="", title="Account host", description="Full host of the account, for example acme.kommo.com."
    )
    account_id: int | None = Field(
        default=None, title="Account id", description="Kommo's account id, known after the first call."
    )
    token_kind: Literal["long_lived", "pair"] = Field(
        default=LONG_LIVED,
        title="Kind of token",
        description="A long-lived token has no refresh token; a pair comes from OAuth.",
    )
    access_token: SecretStr = Field(
        default=SecretStr(""), title="Access token", description="Bearer token for API calls."
    )
    refresh_token: SecretStr = Field(
        default=SecretStr(""), title="Refresh token", description="Single-use refresh token of a pair."
    )
    used: str = Field(
        default="",
        title="Got by using",
        description="Fingerprint of the refresh token that was used up to get this pair.",
    )
    expires_at: datetime | None = Field(
        default=None, title="Expires at", description="When the access token ends, in UTC."
    )
    scopes: list[str] = Field(
        default_factory=list, title="Scopes", description="Scopes named in the token, for information only."
    )

    @property
    def budget_key(self) -> str:
        """The row of the rate budget that every process working on this account shares."""
        return f"account:{self.account_id or self.host}"

    def get_client(
        self,
        *,
        budget: RateBudget,
        egress: str = "default",
        allow_loopback: bool = False,
        token: TokenSource | None = None,
        lane: Lane = Lane.SYNC,
        attempts: int = ATTEMPTS,
        transport: Transport | None = None,
        loose: float = 0.0,
    ) -> KommoClient:
        """A client for this account; use it as an async context manager.

        Args:
            budget: the request budget shared by all processes of the installation.
            egress: name of the outgoing IP that this process uses.
            allow_loopback: accept the sandbox's hosts.
            token: where the access token comes from; without one, this block's own, which is never refreshed.
            lane: how urgent its requests are.
            attempts: how often a read is tried in all.
            transport: a transport to share with the clients of other accounts.
            loose: seconds by which a request may be late, where only the account counts.

        Raises:
            HostNotAllowed: the host is not one of Kommo's.
        """
        return KommoClient(
            parse_host(self.host, allow_loopback=allow_loopback),
            token or StaticToken(self.access_token),
            budget=budget,
            account_key=self.budget_key,
            egress_key=f"egress:{egress}",
            lane=lane,
            attempts=attempts,
            transport=transport,
            loose=loose,
        )
