"""`KommoApp`: one Kommo integration, as its owner sees it under Settings → Integrations.

Facts: client id, secret key, one redirect URI per integration [D K/private-integration]; the authorize page is on
`www` [D K/oauth-20].
"""

from typing import ClassVar, Self

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr

from blocks.settings import Settings
from kommo.auth import OAuthApp
from store.sealing import Sealer, derived_key

CALLBACK_PATH = "/api/v1/crm/kommo/callback"
"""Where the product's users come back from Kommo (product-contract.md, door 2)."""
LOGO = HttpUrl(
    "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/secret.png"
)


class KommoApp(Block):
    """One Kommo integration: the keys with which accounts are connected.

    Example:
        Load a stored integration:
        ```python
        from blocks.app import KommoApp

        app = KommoApp.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str] = "Kommo App"
    _block_type_slug: ClassVar[str] = "kommo-app"
    _logo_url: ClassVar[HttpUrl] = LOGO
    _documentation_url: ClassVar[HttpUrl] = HttpUrl("https://developers.kommo.com/docs/oauth-20")
    model_config = ConfigDict(hide_input_in_errors=True)

    client_id: str = Field(
        default="",
        title="Integration ID",
        description="Integration ID, a UUID from the integration's keys page.",
    )
    client_secret: SecretStr = Field(
        default=SecretStr(""),
        title="Secret key",
        description="Secret key of the integration, shown once by Kommo.",
    )
    redirect_uri: str = Field(
        default="",
        title="Redirect URI",
        description="Redirect URI, byte for byte as in the integration's settings.",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        title="Webhook secret",
        description="HMAC-SHA256 key with which the product signs webhooks that it forwards.",
    )
    events_url: SecretStr = Field(
        default=SecretStr(""),
        title="Address for events",
        description="Where the product takes events; https, or this machine where loopback hosts are allowed.",
    )
    events_secret: SecretStr = Field(
        default=SecretStr(""),
        title="Secrets of events",
        description="Secrets that sign events, whsec_ and base64, newest first, separated by spaces.",
    )
    sealing_keys: SecretStr = Field(
        default=SecretStr(""),
        title="Sealing keys",
        description="Fernet keys of the token journal, newest first, separated by commas; empty derives one.",
    )
    app_url: str = Field(
        default="",
        title="Address of the product",
        description="Public address of the product; people are sent back there after connecting.",
    )
    allowed_redirects: list[str] = Field(
        default_factory=list,
        title="Allowed redirects",
        description="Further addresses to which people may be sent back after connecting.",
    )
    authorize_base: str = Field(
        default="https://www.kommo.com",
        title="Authorize base",
        description="Where the consent page lives; the sandbox stands in by its own address.",
    )
    allow_loopback: bool = Field(
        default=False,
        title="Allow loopback hosts",
        description="Accept accounts on this machine, as the sandbox serves them; never in production.",
    )

    @classmethod
    def from_environment(cls, settings: Settings | None = None) -> Self:
        """The block that the environment describes: the first filling, before anyone saved one."""
        return cls().filled_from(settings or Settings())

    def filled_from(self, settings: Settings) -> Self:
        """This block with what the environment sets put over it; what the environment leaves open stays."""
        callback = f"{settings.app_url.rstrip('/')}{CALLBACK_PATH}" if settings.app_url else ""
        said: dict[str, str | SecretStr] = {
            "client_id": settings.client_id,
            "client_secret": settings.client_secret,
            "webhook_secret": settings.webhook_secret,
            "events_url": settings.events_url,
            "events_secret": settings.events_secret,
            "sealing_keys": settings.sealing_keys,
            "redirect_uri": settings.redirect_uri or ("" if self.redirect_uri else callback),
            "app_url": settings.app_url,
            "authorize_base": settings.authorize_base,
        }
        update: dict[str, object] = {name: value for name, value in said.items() if _plain(value)}
        if settings.sandbox:
            update["allow_loopback"] = True
        return self.model_copy(update=update)

    @property
    def is_complete(self) -> bool:
        """Whether accounts can be connected by OAuth: id, secret and redirect URI are known."""
        return bool(self.client_id and self.client_secret.get_secret_value() and self.redirect_uri)

    def oauth(self) -> OAuthApp:
        """What the token endpoint is told about this integration."""
        return OAuthApp(
            client_id=self.client_id,
            client_secret=self.client_secret,
            redirect_uri=self.redirect_uri,
            authorize_base=self.authorize_base,
        )

    def sealer(self) -> Sealer:
        """What seals the token journal.

        The key that is derived from the client secret always opens, so that naming sealing keys later loses nothing.

        Raises:
            SealKeyError: there is neither a client secret nor a sealing key.
        """
        keys = [SecretStr(key) for key in self.sealing_keys.get_secret_value().replace(",", " ").split()]
        if self.client_secret.get_secret_value():
            keys.append(derived_key(self.client_secret))
        return Sealer(keys)


def _plain(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
