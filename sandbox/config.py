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
class WebhookSettings:
    """How webhooks are sent (fact sheet 6); every one can be changed while the sandbox runs.

    Args:
        seconds: Time limit of an answer, in real seconds [D: 2].
        concurrency: So many requests are under way at most, over all accounts.
        bundle: Up to so many changes share a body; 1 is what is usually seen [C].
        duplicates: Share of the deliveries that come twice, byte for byte.
        loss: Share of the deliveries that are never sent at all.
        delay: Seconds of the sandbox's clock between a change and its webhook.
        shuffle: Up to so many further seconds, differently for each delivery: order is lost.
        paused: Nothing is sent; what waits goes out in one burst afterwards.
        account_block: Where the account stands: "first" (recent), "last" (older), "subdomain" (last, nothing else; of
            2016 to 2018) [C].
        plain_brackets: Brackets are not percent-encoded [C: both are seen].
        empty_nulls: Nulls come as empty texts instead of being left out [C: both are seen].
        odd_notes: A note's `type` holds a text and further keys at once [C].
        lists: Changes of list elements are sent to every hook (in Kommo that is set in the UI).
        agent: User-Agent header.
        self_domain: Domain of `account[_links][self]`, if not the account's own [C: amocrm.com for Kommo accounts].
        fresh_request_ids: A repeated delivery has another X-amoCRM-RequestID than the first one.
        post_enables: POST of the same destination switches a disabled hook on again [I; in the UI for sure].
        keep_bodies: Bodies stay in the log after they were delivered or lost.
        routes: Public origin → loopback origin that stands in for it, e.g. https://app.example → http://127.0.0.1:8000.
    """

    seconds: float = 2.0
    concurrency: int = 16
    bundle: int = 1
    duplicates: float = 0.0
    loss: float = 0.0
    delay: float = 0.0
    shuffle: float = 0.0
    paused: bool = False
    account_block: Literal["first", "last", "subdomain"] = "first"
    plain_brackets: bool = False
    empty_nulls: bool = False
    odd_notes: bool = False
    lists: bool = False
    agent: str = "amoCRM-Webhooks/3.0"
    self_domain: str = ""
    fresh_request_ids: bool = False
    post_enables: bool = True
    keep_bodies: bool = False
    routes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SandboxConfig:
    """Settings of one sandbox.

    Args:
        host: Address to listen on; only loopback makes sense.
        port: 0 takes any free port.
        accounts: How many accounts; the first four are acme, globex, romashka, initech, each with its own flavour.
            Those beyond `FULL_ACCOUNTS` are tiny; thousands are no trouble.
        small: Those beyond `FULL_ACCOUNTS` are as small as an account can be: for ten thousand that are read.
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
        webhooks: How webhooks are sent.
    """

    host: str = "127.0.0.1"
    port: int = 0
    accounts: int = 4
    small: bool = False
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
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
