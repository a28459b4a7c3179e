"""Shapes of JSON values: which keys there are and which types they have, to compare answers with published ones."""

from dataclasses import dataclass, field


@dataclass
class Shape:
    """What is known about the values at one place.

    Args:
        types: Names of JSON types seen; "null" says nothing about the others.
        keys: Shapes of the keys of objects.
        items: Shape of all list elements together, None while no element was seen.
    """

    types: set[str] = field(default_factory=set)
    keys: dict[str, "Shape"] = field(default_factory=dict)
    items: "Shape | None" = None


def shape_of(value: object, into: Shape | None = None) -> Shape:
    """The shape of a value, united with one that is already known.

    Args:
        value: A JSON value.
        into: Shape to add to.
    """
    shape = into or Shape()
    if value is None:
        shape.types.add("null")
    elif isinstance(value, bool):
        shape.types.add("boolean")
    elif isinstance(value, int | float):
        shape.types.add("number")
    elif isinstance(value, str):
        shape.types.add("string")
    elif isinstance(value, list):
        shape.types.add("array")
        for element in value:
            shape.items = shape_of(element, shape.items)
    elif isinstance(value, dict):
        shape.types.add("object")
        for key, inner in value.items():
            shape.keys[key] = shape_of(inner, shape.keys.get(key))
    return shape


def differences(published: Shape, ours: Shape, allowed: frozenset[str], path: str = "") -> list[str]:
    """What differs, one line each; null on either side fits everything.

    Args:
        published: Shape of the published answer.
        ours: Shape of the sandbox's answer.
        allowed: Paths (keys joined with ".", "[]" for list elements) where a key may be on one side only.
        path: Where we are.
    """
    if "null" in (published.types | ours.types) and not (published.types - {"null"}) & (
        ours.types - {"null"}
    ):
        return []
    if not published.types & ours.types:
        return [f"{path or '$'}: published {sorted(published.types)}, ours {sorted(ours.types)}"]
    found: list[str] = []
    if "object" in published.types & ours.types:
        for key in sorted(published.keys.keys() | ours.keys.keys()):
            here = f"{path}.{key}" if path else key
            if key in published.keys and key in ours.keys:
                found += differences(published.keys[key], ours.keys[key], allowed, here)
            elif here not in allowed:
                found.append(f"{here}: only in {'the published answer' if key in published.keys else 'ours'}")
    if published.items is not None and ours.items is None and f"{path}[]" not in allowed:
        found.append(f"{path}: ours is empty, so its elements were not compared")
    if published.items is not None and ours.items is not None:
        found += differences(published.items, ours.items, allowed, f"{path}[]")
    return found
