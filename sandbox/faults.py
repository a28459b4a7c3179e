"""Faults on demand: rules that strike some requests, decided by seeded dice (fact sheet 9.7 and 9.8).

Gateway faults (429, 403_html, 502, 504, reset, 401) answer before Kommo would have looked at the request, so they take
no place in the rate window. The others (500, slow, truncate, reset_after, 504_after, shifted pages, odd links) happen
to requests that were really served, so those count: a write took effect, a refresh token is used up, and the client
does not hear of it. The request log marks each; its windows can be read both ways.
"""

import random
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from sandbox import errors
from sandbox.call import Quirks
from sandbox.wire import Request, Response

Kind = Literal[
    "429", "429_html", "401", "403_html", "500", "502", "504", "reset", "slow", "truncate", "reset_after", "504_after",
    "shift_repeat", "shift_rotate", "phantom_next", "http_links", "shard_links", "unrest",
]  # fmt: skip
KINDS = get_args(Kind)
GATEWAY = {"429", "429_html", "401", "403_html", "502", "504", "reset"}


@dataclass
class Rule:
    """When and how a fault strikes.

    Args:
        kind: What happens.
        rate: Share of the fitting requests, 0 to 1.
        times: Strikes left; None = without end.
        after: Fitting requests that pass unharmed first.
        account: Subdomain, or None for all.
        path: Only paths that contain this text.
        method: Only this method.
        delay: Seconds that the answer is held back (slow).
        retry_after: Seconds named in a 429; None = the limiter's setting.
        by: Items repeated per page or turned per request (shift_…), or changed before each request (unrest).
    """

    kind: Kind
    rate: float = 1.0
    times: int | None = None
    after: int = 0
    account: str | None = None
    path: str = ""
    method: str | None = None
    delay: float = 1.0
    retry_after: float | None = None
    by: int = 1
    struck: int = field(default=0)

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: Unknown kind, or a rate outside 0 to 1.
        """
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault kind {self.kind!r}; known: {', '.join(KINDS)}")
        if not 0 <= self.rate <= 1:
            raise ValueError("rate must be between 0 and 1")

    def fits(self, request: Request, account: str | None) -> bool:
        """Whether the rule looks at this request at all."""
        return (
            (self.times is None or self.times > 0)
            and self.account in {None, account}
            and self.path in request.path
            and self.method in {None, request.method}
        )


class Faults:
    """The rules in force.

    Args:
        seed: Same seed and same requests, same faults.
    """

    def __init__(self, seed: int) -> None:
        self.rules: list[Rule] = []
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start the dice afresh."""
        self._random = random.Random(f"faults:{seed}")  # noqa: S311 - dice of a test double

    @property
    def dice(self) -> random.Random:
        """What decides about faults."""
        return self._random

    def add(self, **values: Any) -> Rule:
        """Put a rule in force (arguments of `Rule`)."""
        self.rules.append(Rule(**values))
        return self.rules[-1]

    def strike(self, request: Request, account: str | None) -> list[Rule]:
        """The rules that strike this request: at most one gateway fault, or any number of the others."""
        struck: list[Rule] = []
        for rule in self.rules:
            if not rule.fits(request, account):
                continue
            if rule.after > 0:
                rule.after -= 1
                continue
            if rule.rate < 1 and self._random.random() >= rule.rate:
                continue
            rule.struck += 1
            if rule.times is not None:
                rule.times -= 1
            if rule.kind in GATEWAY:
                return [rule]
            struck.append(rule)
        return struck


def gateway_answer(rule: Rule, retry_after: float) -> Response:
    """The answer of a gateway fault.

    Args:
        rule: The rule that struck.
        retry_after: Seconds for a 429 if the rule names none.
    """
    seconds = retry_after if rule.retry_after is None else rule.retry_after
    if rule.kind in {"429", "429_html"}:
        return errors.too_many_requests(seconds, html=rule.kind == "429_html")
    if rule.kind == "401":
        return errors.unauthorized()
    if rule.kind == "403_html":
        return errors.ip_blocked()
    if rule.kind == "reset":
        return Response(0, reset=True)
    return errors.bad_gateway(int(rule.kind))


def quirks_of(rules: list[Rule], top_domain: str, subdomain: str) -> Quirks:
    """How pages and links are twisted by the rules that struck."""
    quirks = Quirks()
    for rule in rules:
        if rule.kind == "shift_repeat":
            quirks.repeat = rule.by
        elif rule.kind == "shift_rotate":
            quirks.rotate = rule.by * rule.struck
        elif rule.kind == "phantom_next":
            quirks.phantom_next = True
        elif rule.kind == "http_links":
            quirks.link_base = f"http://{subdomain}.{top_domain.partition(':')[0]}"
        elif rule.kind == "shard_links":
            quirks.link_base = f"https://shard151.{top_domain}"
    return quirks


def damaged(response: Response, rules: list[Rule]) -> Response:
    """The answer after 500, 504_after, slow, truncate and reset_after have had their way with it."""
    for rule in rules:
        if rule.kind == "500":
            response = replace(errors.internal_error(), delay=response.delay)
        elif rule.kind == "504_after":
            response = replace(errors.bad_gateway(504), delay=response.delay)
        elif rule.kind == "reset_after":
            response = Response(0, reset=True, delay=response.delay)
        elif rule.kind == "slow":
            response.delay += rule.delay
        elif rule.kind == "truncate":
            response.cut = len(response.body) // 2
    return response
