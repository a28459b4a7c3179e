"""Everything one sandbox holds besides the network: accounts, tokens, clock, limits, faults, log, listeners."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from sandbox.config import SandboxConfig
from sandbox.faults import Faults
from sandbox.limits import Limiter
from sandbox.oauth import Integration, OAuth
from sandbox.requestlog import RequestLog
from sandbox.seed import build_account
from sandbox.seed_records import event
from sandbox.state import SINGULAR, Account, Record
from sandbox.tokens import TokenBook

LONG_LIVED_SECONDS = 5 * 365 * 86_400  # at most five years [D K/long-lived-token]
_MAX_EVENTS = 20_000


@dataclass(frozen=True)
class Change:
    """One change of data, told to the listeners; the place where webhook delivery is to be hung in.

    Args:
        account: Where.
        entity: leads, contacts, companies, customers, tasks, notes, talks, unsorted, messages.
        action: add, update, status, responsible, delete, note, close …
        before: The record before, or None.
        after: The record now, or None when it is gone.
        user_id: Who did it; 0 = the system.
        moment: Unix seconds.
    """

    account: Account
    entity: str
    action: str
    before: Record | None
    after: Record | None
    user_id: int
    moment: int


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
        self.accounts: list[Account] = [
            build_account(index, config, self.top_domain) for index in range(config.accounts)
        ]
        self.tokens = TokenBook(self.now, config.seed)
        self.oauth = OAuth(self.tokens, self.now, config.seed, config.refresh_mode)
        self.integration = self.oauth.add_integration(Integration.seeded(config.seed, config.redirect_uri))
        self.limiter = Limiter(config.limits)
        self.faults = Faults(config.faults_seed)
        self.log = RequestLog()
        self.listeners: list[Callable[[Change], None]] = []
        self._dice = Random(f"world:{config.seed}")  # noqa: S311 - identifiers in a test double
        self.long_lived: dict[int, dict[str, str]] = {
            account.id: self._long_lived(account) for account in self.accounts
        }

    def _long_lived(self, account: Account) -> dict[str, str]:
        plain = next(
            (
                user
                for user in account.users
                if not user["rights"]["is_admin"] and user["rights"]["is_active"]
            ),
            None,
        )
        people = {"admin": account.admin_id, "plain": plain["id"] if plain else account.admin_id}
        return {
            name: self.tokens.issue(
                account,
                user_id,
                self.integration.client_id,
                self.integration.scopes,
                seconds=LONG_LIVED_SECONDS,
            ).value
            for name, user_id in people.items()
        }

    def now(self) -> int:
        """Unix seconds of the sandbox's clock, which the control API can put forward."""
        return int(time.time() + self.clock_offset)

    def account_named(self, name: str) -> Account | None:
        """An account by its subdomain or by its id written as text."""
        return next((known for known in self.accounts if name in {known.subdomain, str(known.id)}), None)

    def account_with_id(self, account_id: int) -> Account | None:
        """An account by its id."""
        return next((known for known in self.accounts if known.id == account_id), None)

    def rename(self, account: Account, subdomain: str) -> None:
        """Give an account another subdomain; the old host answers 404 from now on."""
        account.profile["subdomain"] = subdomain
        account.forget_rendered()

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
