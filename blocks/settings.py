"""What an installation is told by its environment, each with a default that needs nothing.

Every name begins with `KOMMO_`. `KOMMO_CLIENT_ID`, `KOMMO_CLIENT_SECRET`, `KOMMO_WEBHOOK_SECRET` and
`APP_URL` are the names the product already sets; they fill a `KommoApp` block that does not exist yet.
"""

from functools import cached_property
from pathlib import Path

from platformdirs import user_data_path
from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

APP_NAME = "kommo-data-plane"


class Settings(BaseSettings):
    """The environment of this process, read once where it is needed and then handed on."""

    model_config = SettingsConfigDict(
        env_prefix="KOMMO_", extra="ignore", hide_input_in_errors=True, populate_by_name=True
    )

    home: Path = Field(
        default_factory=lambda: user_data_path(APP_NAME, appauthor=False),
        description="Folder of the embedded database and of the demo.",
    )
    database_url: SecretStr | None = Field(
        default=None, description="URL of the project's own database; empty means SQLite in `home`."
    )
    database_schema: str = Field(default="kommo", description="PostgreSQL schema of our tables.")
    sandbox: bool = Field(
        default=False, description="Allow loopback hosts, so that the sandbox can stand in."
    )
    requests_per_second: float = Field(
        default=7.0,
        gt=0,
        le=50,
        description="Kommo's limit per account and per outgoing IP [D K/limitations].",
    )
    egress_requests_per_second: float | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Limit per outgoing IP where it is another one; 0: none, only accounts are counted.",
    )
    egress: str = Field(
        default="default", description="Name of this machine's outgoing IP: processes behind one IP share it."
    )
    client_id: str = Field(default="", description="Integration id, for a KommoApp block not saved yet.")
    client_secret: SecretStr = Field(default=SecretStr(""), description="Secret key of the integration.")
    webhook_secret: SecretStr = Field(default=SecretStr(""), description="HMAC key of forwarded webhooks.")
    sealing_keys: SecretStr = Field(
        default=SecretStr(""),
        description="Fernet keys of the token journal, newest first, separated by commas.",
    )
    redirect_uri: str = Field(
        default="", description="Redirect URI of the integration; by default the callback under APP_URL."
    )
    authorize_base: str = Field(
        default="", description="Where the consent page lives, if not on www.kommo.com."
    )
    webhook_url: str = Field(
        default="",
        description="Public address of the gateway, to which Kommo sends webhooks; by default APP_URL.",
    )
    events_url: SecretStr = Field(
        default=SecretStr(""),
        description="Where the product takes events: https, or this machine where loopback is allowed.",
    )
    events_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Secrets that sign events: `whsec_` and base64, newest first, separated by spaces.",
    )
    events_attempts: int = Field(
        default=15, ge=1, le=100, description="So many times an event is tried before it is given up."
    )
    key_requests_per_second: float = Field(
        default=50.0,
        gt=0,
        description="Requests a second that the gateway takes from each of the product's keys, in each process.",
    )
    key_burst: int = Field(
        default=100, ge=1, description="Requests that one of the product's keys may make at once."
    )
    app_url: str = Field(
        default="",
        validation_alias=AliasChoices("APP_URL", "NEXT_PUBLIC_APP_URL"),
        description="Public address of the product.",
    )

    @cached_property
    def embedded_database_url(self) -> str:
        """URL of the SQLite file that is used when nothing else is configured."""
        return f"sqlite+aiosqlite:///{self.home / 'kommo.db'}"
