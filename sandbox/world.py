"""Everything one sandbox holds besides the network: accounts, tokens, clock, limits, faults, log, webhooks."""

import time
from collections.abc import Callable
from random import Random

from sandbox.accounts import Accounts, Card
from sandbox.config import FULL_ACCOUNTS, SandboxConfig
from sandbox.faults import Faults
from sandbox.integrations import Integration
from sandbox.limits import Limiter
from sandbox.oauth import OAuth
from sandbox.requestlog import RequestLog
from sandbox.seed_records import event
from sandbox.state import SINGULAR, Account, Change, Record
from sandbox.tokens import TokenBook
from sandbox.webhooks import Webhooks

LONG_LIVED_SECONDS = 5 * 365 * 86_400  # at most five years [D K/long-lived-token]
_MAX_EVENTS = 20_000


class World:
    """The state behind the server.

    Args:
        config: Sizes, seed, limits.
        port: Port that links name.
    """

    def __init__(self, config: SandboxConfig, port: int) -> None:
        self.config = config
        self.top_domain = f"localhost:{port}"
        self.clock_offset = 0.0
        self.accounts = Accounts(config, self.top_domain)
        self.tokens = TokenBook(self.now, config.seed)
        self.oauth = OAuth(self.tokens, self.now, config.seed, config.refresh_mode)
        self.integration = self.oauth.add_integration(Integration.seeded(config))
        self.limiter = Limiter(config.limits)
        self.faults = Faults(config.faults_seed)
        self.log = RequestLog()
        self.webhooks = Webhooks(config.webhooks, self.clock, self.move_clock, config.seed)
        self.listeners: list[Callable[[Change], None]] = [self.webhooks.hear]
        self._dice = Random(f"world:{config.seed}")  # noqa: S311 - identifiers in a test double
        self.long_lived = {card.id: self._long_lived(card) for card in self.accounts.cards}

    def _long_lived(self, card: Card) -> dict[str, str]:
        """Of the administrator of an account, and of a user who is none."""
        return {
            name: self.tokens.issue(
                card,
                user_id,
                self.integration.client_id,
                self.integration.scopes,
                seconds=LONG_LIVED_SECONDS,
                unsigned=card.index >= FULL_ACCOUNTS,
            ).value
            for name, user_id in (("admin", card.admin_id), ("plain", card.plain_id))
        }

    def clock(self) -> float:
        """The sandbox's clock, which the control API can put forward."""
        return time.time() + self.clock_offset

    def now(self) -> int:
        """Its whole seconds."""
        return int(self.clock())

    def move_clock(self, moment: float) -> None:
        """Set the clock.

        Args:
            moment: Unix seconds that it is to show now.
        """
        self.clock_offset = moment - time.time()
        self.webhooks.wake()

    def account_named(self, name: str) -> Account | None:
        """An account by its subdomain or by its id written as text."""
        card = self.accounts.named(name)
        return None if card is None else self.accounts.built(card)

    def account_with_id(self, account_id: int) -> Account | None:
        """An account by its id."""
        card = self.accounts.with_id(account_id)
        return None if card is None else self.accounts.built(card)

    def rename(self, account: Account | Card, subdomain: str) -> None:
        """Give an account another subdomain; the old host answers 404 from now on."""
        card = self.accounts.with_id(account.id)
        if card is not None:
            self.accounts.rename(card, subdomain)

    def announce(
        self,
        account: Account,
        entity: str,
        action: str,
        *,
        before: Record | None,
        after: Record | None,
        user_id: int,
    ) -> None:
        """Tell every listener of a change."""
        change = Change(account, entity, action, before, after, user_id, self.now())
        for listener in self.listeners:
            listener(change)

    def note_event(
        self,
        account: Account,
        kind: str,
        entity: str,
        record_id: int,
        user_id: int,
        *,
        after: list[Record] | None = None,
        before: list[Record] | None = None,
    ) -> None:
        """Add a row to the account's event list.

        Args:
            account: Where.
            kind: Event type, e.g. lead_status_changed.
            entity: Plural entity word.
            record_id: Whom it happened to.
            user_id: Who did it.
            after: `value_after`.
            before: `value_before`.
        """
        if entity not in SINGULAR or entity == "customers":
            return
        row = event(
            self._dice,
            kind,
            entity,
            record_id,
            user_id=user_id,
            moment=self.now(),
            after=after,
            before=before,
        )
        account.events.append(row)
        del account.events[:-_MAX_EVENTS]
