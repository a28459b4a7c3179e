"""What a sandbox is made of: sizes, seed, limits. Everything has a default that suits a test."""

from dataclasses import dataclass, field
from typing import Literal

SCOPES = (
    "push_notifications",
    "files",
    "crm",
    "files_delete",
    "notifications",
    "list_external_messages",
    "send_external_messages",
)


FULL_ACCOUNTS = 16
"""Accounts beyond these hold a handful of records only, and no custom fields beyond one of every type."""


@dataclass(frozen=True)
class LimitSettings:
    """How the stand-in throttles.

    Args:
        per_ip: Requests per second and client address; 0 = unthrottled [D K/limitations: 7].
        per_account: Requests per second and account; 0 = unthrottled.
        retry_after: Seconds named in the body of a 429 (300 in the documentation's example).
        html: Answer 429 as an HTML page instead of JSON [C PHP].
        block_after: So many 429s within `block_window` block the address; 0 = never [D: "repeated"].
        block_window: Seconds.
    """

    per_ip: float = 7
    per_account: float = 7
    retry_after: float = 300
    html: bool = False
    block_after: int = 30
    block_window: float = 60


@dataclass(frozen=True)
class SandboxConfig:
    """Settings of one sandbox.

    Args:
        host: Address to listen on; only loopback makes sense.
        port: 0 takes any free port.
        accounts: How many accounts; the first four are acme, globex, romashka, initech, each with its own flavour.
            Those beyond `FULL_ACCOUNTS` are tiny; thousands are no trouble.
        leads: Leads per account.
        contacts: Contacts per account.
        companies: Companies per account.
        fields: Extra custom fields per entity, beyond one of every type.
        talks: Talks per account that has talks.
        seed: Same seed, same data, byte for byte.
        limits: Throttling.
        refresh_mode: "grace": a used refresh token works until the new pair is used [D K/oauth-20];
            "dead": it dies at once [D A].
        redirect_uri: Redirect URI of the default integration.
        client_id: Its id; empty = one made from the seed.
        client_secret: Its secret key; empty = one made from the seed.
        disable_hook: URL that it wants to be told of an uninstall at, or empty.
        max_batch: A write of more elements than this is answered with 504 by the gateway; 0 = never.
        faults_seed: Seed of the dice that decide about faults.
    """

    host: str = "127.0.0.1"
    port: int = 0
    accounts: int = 4
    leads: int = 120
    contacts: int = 80
    companies: int = 25
    fields: int = 0
    talks: int = 24
    seed: int = 1
    limits: LimitSettings = field(default_factory=LimitSettings)
    refresh_mode: Literal["grace", "dead"] = "grace"
    redirect_uri: str = "http://127.0.0.1:8000/oauth/callback"
    client_id: str = ""
    client_secret: str = ""
    disable_hook: str = ""
    max_batch: int = 0
    faults_seed: int = 1
