"""How much a change in a CRM's set-up matters, and to whom: the rules, without any SQL.

`breaking`: something that refers to the item by its id, or writes to it, stops working. `warning`: it may go
wrong, depending on how the consumer refers to it. `info`: nothing breaks. The facts are those of kommo-api.md
§3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from store.kinds import Kind


class Severity(StrEnum):
    """How much a change matters."""

    BREAKING = "breaking"
    WARNING = "warning"
    INFO = "info"


class ChangeKind(StrEnum):
    """What happened to an item. `changed` is everything that has no word of its own."""

    ADDED = "added"
    REMOVED = "removed"
    RENAMED = "renamed"
    MOVED = "moved"
    TYPE_CHANGED = "type_changed"
    CHANGED = "changed"


_ORDER = (Severity.BREAKING, Severity.WARNING, Severity.INFO)


@dataclass(frozen=True)
class Verdict:
    """A change's name, weight, and a sentence on who is hit and how."""

    change: ChangeKind
    severity: Severity
    why: str


def severity_rank(severity: str) -> int:
    """0 for what matters most; for sorting."""
    return _ORDER.index(Severity(severity))


# What stops working when an item is gone, by its kind; fields and enums are found by the end of the kind's
# name.
_GONE = {
    "account": "The account itself is no longer readable; nothing of this connection can be relied on.",
    "task_types": "Actions that create tasks of this type by id will be refused with 400.",
    "pipelines": "Actions that put leads into this pipeline, and filters by its id, will be refused or find nothing.",
    "statuses": "Actions that set this stage by id will get 400; Kommo moved its leads to the first stage.",
    "channels": "Messages through this channel can no longer be sent, and rules that name it never match.",
    "users": "Leads and tasks can no longer be assigned to this user; assigning by id will get 400.",
    "loss_reasons": "Actions that close leads with this reason by id will get 400.",
    "fields": "Actions that write this field will get 400, and its values are no longer in what is read.",
    "field_enums": "Actions that choose this value, by id or by its text, will get 400.",
}


def _gone(kind: Kind) -> str:
    for name, sentence in _GONE.items():
        if kind.name.endswith(name):
            return sentence
    return "Whatever refers to it by id stops working."


def judge_removed(kind: Kind) -> Verdict:
    """An item is gone."""
    return Verdict(ChangeKind.REMOVED, Severity.BREAKING, _gone(kind))


def judge_added(kind: Kind) -> Verdict:
    """An item is new."""
    why = f"Nothing refers to it yet; the new {kind.title} can be used from now on."
    return Verdict(ChangeKind.ADDED, Severity.INFO, why)


def judge_moved(kind: Kind) -> Verdict:
    """A child is under another parent."""
    why = (
        f"Actions that name this {kind.title} together with the former {kind.parent or 'parent'} id will get 400; "
        "the pair of ids must be set anew."
    )
    return Verdict(ChangeKind.MOVED, Severity.BREAKING, why)


_Rule = Callable[[Kind, Mapping[str, Any], Mapping[str, Any]], Verdict | None]
_Values = Mapping[str, Any]


def _type(kind: Kind, before: _Values, after: _Values) -> Verdict | None:
    if "type" not in after:
        return None
    if kind.name.endswith("_fields"):
        why = "Actions that write this field in the old type's form will get 400; stored values may read differently."
        return Verdict(ChangeKind.TYPE_CHANGED, Severity.BREAKING, why)
    why = f"Rules that tell the {kind.title} by its type no longer match ({before['type']!r} → {after['type']!r})."
    return Verdict(ChangeKind.TYPE_CHANGED, Severity.WARNING, why)


def _archived(_kind: Kind, _before: _Values, after: _Values) -> Verdict | None:
    if "is_archive" not in after:
        return None
    if after["is_archive"]:
        why = "The pipeline is out of the users' sight: leads that actions put there will not be worked on."
        return Verdict(ChangeKind.CHANGED, Severity.BREAKING, why)
    return Verdict(ChangeKind.CHANGED, Severity.INFO, "The pipeline was taken out of the archive.")


def _deactivated(_kind: Kind, _before: _Values, after: _Values) -> Verdict | None:
    if "is_active" not in after:
        return None
    if after["is_active"] is False:
        why = "The user was deactivated: what is assigned to them stays unseen, and new assignments may be refused."
        return Verdict(ChangeKind.CHANGED, Severity.BREAKING, why)
    return Verdict(ChangeKind.CHANGED, Severity.INFO, "The user was activated.")


# Keys whose change is a warning, and why. `required_statuses` is only in the raw JSON.
_WARNINGS = {
    "is_main": "Leads that are created without a pipeline now go elsewhere: the main pipeline is another one.",
    "is_required": "People must (or need no longer) fill the field; what is created by the API may be incomplete.",
    "required_statuses": "The stages at which people must fill the field are others; agents may have to ask for it.",
    "is_api_only": "People may (or may no longer) edit the field in Kommo; who owns its value is now different.",
    "is_computed": "Kommo computes the field now (or no longer): values written to it may not stay.",
    "code": "What refers to the item by its code no longer finds it.",
    "origin": "Rules that tell the channel by its origin no longer match.",
    "external_id": "Messages that are matched by the channel's external id no longer find it.",
    "is_admin": "The user's rights changed: a connection that they authorized may see more or less than before.",
    "subdomain": "The account has another address; stored hosts must be corrected.",
    "currency": "Amounts are in another currency now; budgets and texts with amounts are wrong.",
    "timezone": "The account's working day lies elsewhere; times in tasks must be computed anew.",
}


def _warned(_kind: Kind, _before: _Values, after: _Values) -> Verdict | None:
    reasons = [why for key, why in _WARNINGS.items() if key in after]
    return Verdict(ChangeKind.CHANGED, Severity.WARNING, " ".join(reasons)) if reasons else None


def _renamed(kind: Kind, _before: _Values, after: _Values) -> Verdict | None:
    if kind.name_column not in after:
        return None
    if kind.name.endswith("_enums"):
        why = "Actions that write this value as text will get 400: the text must match exactly. Its id still works."
        return Verdict(ChangeKind.RENAMED, Severity.WARNING, why)
    return Verdict(
        ChangeKind.RENAMED, Severity.INFO, "Its id is the same; only what matches it by name is affected."
    )


def _other(_kind: Kind, _before: _Values, after: _Values) -> Verdict | None:
    looks = {"sort", "color", "icon_id"}
    if set(after) <= looks:
        return Verdict(ChangeKind.CHANGED, Severity.INFO, "Only its place or its looks changed.")
    return Verdict(ChangeKind.CHANGED, Severity.INFO, "Nothing that refers to it by id is affected.")


_RULES: tuple[_Rule, ...] = (_type, _archived, _deactivated, _warned, _renamed, _other)


def judge_changed(kind: Kind, before: Mapping[str, Any], after: Mapping[str, Any]) -> Verdict:
    """An item has other values.

    Args:
        kind: the item's kind.
        before: the values that changed, as they were.
        after: the same keys, as they are.

    Returns:
        The weightiest of the verdicts; the sentences of the others that matter are added to its own.
    """
    found = [verdict for rule in _RULES if (verdict := rule(kind, before, after))]
    found.sort(key=lambda verdict: severity_rank(verdict.severity))
    first = found[0]
    also = [verdict.why for verdict in found[1:] if verdict.severity != Severity.INFO]
    return Verdict(first.change, first.severity, " ".join([first.why, *also]))
