"""Form bodies with PHP's brackets, as Kommo sends them, into nested values: `leads[add][0][id]=1`.

Facts: kommo-api.md §6.1 and §6.2 (maps and lists mixed, ids as keys, a scalar and a group under one name).

What comes out holds every value that went in:

- Names become mappings. A mapping whose keys are exactly 0 to n-1, in any order, becomes a list; any other stays a
  mapping with text as keys, so that an id as a key (`linked_leads_id[15319601]`) costs no more than any other.
- A value and a group under one name are both kept: the value stands in the group under the key "", which no form can
  name otherwise: `type=3&type[uuid]=x` becomes `{"type": {"": "3", "uuid": "x"}}`.
- A name that comes twice becomes the list of its values; `name[]` counts on from what is there.
- A name whose brackets do not close is taken as it stands.
- Bytes that are not UTF-8 become U+FFFD, because what follows (JSON, PostgreSQL, HTTP) refuses halves of characters.

Work and memory grow with the length of the body and with nothing else; limits are checked before the work is done.
"""

from typing import Any
from urllib.parse import unquote_to_bytes

from kommo.webhooks.limits import Limits, UnreadableBodyError

Group = dict[str, Any]

_OWN = ""
"""Key of the value that stands on a group's own name."""


class _Repeated(list[str]):
    """The values of a name that came more than once; not a list that the body spelt."""

    __slots__ = ()


def nested(body: bytes, limits: Limits) -> Group:
    """Read a form body.

    Args:
        body: The body, of a length that was checked.
        limits: What it may be.

    Raises:
        UnreadableBodyError: It has too many fields or levels.
    """
    if body.count(b"&") >= limits.fields:
        raise UnreadableBodyError(f"it has more than {limits.fields} fields")
    text = body.decode("utf-8", "replace")
    if "%5" in text:
        # Names consist mostly of brackets. In values it changes nothing: they are decoded after it, and once.
        text = text.replace("%5B", "[").replace("%5D", "]").replace("%5b", "[").replace("%5d", "]")
    tree = _Tree(limits)
    root, groups = tree.root, tree.groups
    for pair in text.split("&"):
        name, sign, value = pair.partition("=")
        if "%" in value or "+" in value:
            value = _decoded(value)
        if "%" in name or "+" in name:
            name = _decoded(name)
        # Most fields stand in a group that is there already, under a name that is new: two look-ups.
        prefix, bracket, last = name.rpartition("[")
        if bracket and last[-1:] == "]":
            key = last[:-1]
            group = groups.get(prefix)
            if group is None:
                group = tree.group(prefix)
            if not key:
                key = tree.next_key(group)
        elif name or sign:
            key, group = name, root
        else:
            continue
        if key in group:
            _add(group, key, value)
        else:
            group[key] = value
    return tree.finished()


class _Tree:
    """The groups by the text of their names, each with where it hangs."""

    def __init__(self, limits: Limits) -> None:
        self.root: Group = {}
        self.groups: dict[str, Group] = {}
        self._limits = limits
        self._places: list[tuple[Group, str, Group]] = []
        self._next: dict[int, int] = {}

    def next_key(self, group: Group) -> str:
        """The number that `[]` stands for: on from how many there are, never one that is taken."""
        number = self._next.get(id(group), len(group) - (_OWN in group))
        while str(number) in group:
            number += 1
        self._next[id(group)] = number + 1
        return str(number)

    def group(self, name: str) -> Group:
        """The group of a name that was not met yet, hung into those around it."""
        if name.count("[") + 2 > self._limits.depth:
            raise UnreadableBodyError(f"its names have more than {self._limits.depth} levels")
        prefix, bracket, last = name.rpartition("[")
        if bracket and last[-1:] == "]":
            outer, key = self.groups.get(prefix), last[:-1]
            if outer is None:
                outer = self.group(prefix)
            if not key:
                key = self.next_key(outer)
        else:
            outer, key = self.root, name
        inner = outer.get(key)
        if not isinstance(inner, dict):
            inner = {} if inner is None else {_OWN: inner}
            if len(self._places) >= self._limits.fields:
                raise UnreadableBodyError(f"it has more than {self._limits.fields} groups of fields")
            outer[key] = inner
            self._places.append((outer, key, inner))
        if "[]" not in name:  # `a[][b]`: each occurrence is a group of its own, not known by its name
            self.groups[name] = inner
        return inner

    def finished(self) -> Group:
        """The whole, with lists for lists. Groups inside others were made after them, so it goes from the end."""
        for outer, key, group in reversed(self._places):
            if "0" in group:
                if len(group) == 1:
                    outer[key] = [group["0"]]
                elif (listed := _as_list(group)) is not None:
                    outer[key] = listed
        return self.root


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")


def _add(group: Group, key: str, value: str) -> None:
    """Put a value where something stands already."""
    before = group[key]
    if isinstance(before, dict):
        group, key = before, _OWN
        if key not in group:
            group[key] = value
            return
        before = group[key]
    if isinstance(before, _Repeated):
        before.append(value)
    else:
        group[key] = _Repeated((before, value))


def _as_list(group: Group) -> list[Any] | None:
    numbers = [str(number) for number in range(len(group))]
    try:
        return [group[number] for number in numbers]
    except KeyError:
        return None
