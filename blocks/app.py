"""`KommoApp`: one Kommo integration, as its owner sees it under Settings → Integrations.

Facts: client id, secret key, one redirect URI per integration [D K/private-integration]; the authorize page is on
`www` [D K/oauth-20].
"""

from typing import ClassVar, Self

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr

from blocks.settings import Settings

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
        settings = settings or Settings()
        callback = f"{settings.app_url.rstrip('/')}/api/v1/crm/kommo/callback" if settings.app_url else ""
        return cls(
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            webhook_secret=settings.webhook_secret,
            redirect_uri=callback,
            allow_loopback=settings.sandbox,
        )
