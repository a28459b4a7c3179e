"""What the flow tests share: connecting an org to a sandbox, and comparing the store with what the sandbox holds."""

from typing import Any

from pydantic import SecretStr

from blocks.settings import Settings
from sandbox import AccountAccess, LimitSettings, SandboxConfig
from store.snapshots import read_snapshot
from tasks.connect import connect_with_token
from tasks.session import open_database

UNTHROTTLED = LimitSettings(per_ip=0, per_account=0)
KINDS_SHOWN = ("account", "pipelines", "channels", "lead_fields", "contact_fields", "company_fields", "users", "loss_reasons")


def quiet_config(**options: Any) -> SandboxConfig:
    """A sandbox that does not throttle."""
    return SandboxConfig(limits=UNTHROTTLED, **options)


async def connect(org: str, account: AccountAccess, settings: Settings, *, token: str | None = None) -> None:
    """Connect an org to one of a sandbox's accounts."""
    await connect_with_token(org, account.host, SecretStr(token or account.admin_token), settings)


async def stored(org: str, settings: Settings, *, raw: bool = False) -> dict[str, list[dict[str, Any]]]:
    """All current snapshots of an org."""
    async with open_database(settings) as database:
        return {kind: (await read_snapshot(database, org, kind, raw=raw)).items for kind in KINDS_SHOWN}
