"""The accounts of one sandbox: known by name from the start, built when somebody looks inside.

An account takes some milliseconds and a megabyte to make, and the token endpoint needs nothing but its id. So a
thousand of them are there at once, and only those that are read cost anything.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

from sandbox.config import FULL_ACCOUNTS, SandboxConfig
from sandbox.seed import FIRST_ID, ID_STEP, STYLES, account_name, build_account, subdomain_of
from sandbox.state import FIRST_USER_ID, Account, Flavour

_BUILT_AT_ONCE = 4
_NUMBER = re.compile(r"[0-9]{1,15}")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(eq=False, slots=True)
class Card:
    """What is known of an account without building it.

    Args:
        index: Which one, counted from 0.
        id: Kommo's id.
        subdomain: First label of the host; it can be renamed.
        name: Its name.
        flavour: "kommo" or "amo".
        top_domain: Host and port behind the subdomain.
    """

    index: int
    id: int
    subdomain: str
    name: str
    flavour: Flavour
    top_domain: str

    @property
    def host(self) -> str:
        """Host with port, as it stands in the `referer` of the OAuth callback."""
        return f"{self.subdomain}.{self.top_domain}"

    @property
    def admin_id(self) -> int:
        """The administrator who set the account up."""
        return FIRST_USER_ID

    @property
    def plain_id(self) -> int:
        """The first user who is no administrator."""
        return FIRST_USER_ID + 2


class Accounts(Sequence[Account]):
    """All accounts, in order.

    Args:
        config: How many, and how large.
        top_domain: Host and port behind the subdomains.
    """

    def __init__(self, config: SandboxConfig, top_domain: str) -> None:
        self._config = config
        self.cards = [
            Card(
                index=index,
                id=FIRST_ID + ID_STEP * index,
                subdomain=subdomain_of(index),
                name=account_name(index),
                flavour=STYLES[index % len(STYLES)].flavour,
                top_domain=top_domain,
            )
            for index in range(config.accounts)
        ]
        self._by_subdomain = {card.subdomain: card for card in self.cards}
        self._by_id = {card.id: card for card in self.cards}
        self._built: dict[int, Account] = {}
        for card in self.cards[:_BUILT_AT_ONCE]:
            self.built(card)

    def __len__(self) -> int:
        return len(self.cards)

    @overload
    def __getitem__(self, index: int) -> Account: ...

    @overload
    def __getitem__(self, index: slice) -> list[Account]: ...

    def __getitem__(self, index: int | slice) -> Account | list[Account]:
        if isinstance(index, slice):
            return [self.built(card) for card in self.cards[index]]
        return self.built(self.cards[index])

    def built(self, card: Card) -> Account:
        """The account itself.

        Args:
            card: Which one.
        """
        account = self._built.get(card.index)
        if account is None:
            config = self._config if card.index < FULL_ACCOUNTS else _tiny(self._config)
            account = build_account(card.index, config, card.top_domain, bare=card.index >= FULL_ACCOUNTS)
            account.profile["subdomain"] = card.subdomain
            self._built[card.index] = account
        return account

    def seen(self) -> list[Account]:
        """Those that somebody has looked into; no other can have been changed."""
        return list(self._built.values())

    def named(self, name: str) -> Card | None:
        """An account by its subdomain or by its id written as text."""
        return self._by_subdomain.get(name) or (
            self._by_id.get(int(name)) if _NUMBER.fullmatch(name) else None
        )

    def with_id(self, account_id: int) -> Card | None:
        """An account by its id."""
        return self._by_id.get(account_id)

    def rename(self, card: Card, subdomain: str) -> None:
        """Give an account another subdomain; the old one is free from now on.

        Args:
            card: Which account.
            subdomain: Its new one.

        Raises:
            ValueError: Another account has it, or no account can have it.
        """
        if not _LABEL.fullmatch(subdomain):
            raise ValueError(f"{subdomain!r} cannot be a subdomain")
        if self._by_subdomain.get(subdomain, card) is not card:
            raise ValueError(f"there is an account {subdomain!r} already")
        del self._by_subdomain[card.subdomain]
        self._by_subdomain[subdomain] = card
        card.subdomain = subdomain
        if (account := self._built.get(card.index)) is not None:
            account.profile["subdomain"] = subdomain
            account.forget_rendered()


def _tiny(config: SandboxConfig) -> SandboxConfig:
    if config.small:
        return replace(config, leads=1, contacts=1, companies=0, talks=0, fields=0)
    return replace(
        config,
        leads=min(config.leads, 3),
        contacts=min(config.contacts, 3),
        companies=min(config.companies, 1),
        talks=min(config.talks, 1),
        fields=0,
    )
