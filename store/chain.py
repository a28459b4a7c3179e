"""The chain of token pairs, as plain values: where it ends, what else may still work, and what may follow what.

A pair is got by using up the one before it, so pairs hang together by (used → fingerprint). Kommo's grace (a used
refresh token works until the new pair is used [D K/oauth-20]) lets one parent have several children, so the chain
may be a tree; after a new consent there is another tree, whose root was got with a code.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Edge:
    """One pair in the chain.

    Attributes:
        used: the fingerprint of what it was got with: a refresh token, or `code:…`.
        fingerprint: its own.
        promoted: it is, or was, the pair in the block.
        dead: Kommo finally refuses it.
        order: the younger, the greater. A pair that only the block knows has 0.
    """

    used: str
    fingerprint: str
    promoted: bool = False
    dead: bool = False
    order: int = 0


def end_of_chain(start: str | None, edges: Sequence[Edge]) -> list[str]:
    """The fingerprints from `start` to the current pair, which is the last one.

    Of several children, one that leads to a living end comes first, then one that was promoted, then the
    youngest. Contradictory edges (a pair that descends from itself) end the walk.

    Args:
        start: the pair that the store last knew as current; None gives an empty list.
        edges: all that are known, in any order, also twice.
    """
    if start is None:
        return []
    children = _by_parent(_merged(edges).values())
    living = _leading_to_life(children)
    path = [start]
    while True:
        ahead = [edge for edge in children.get(path[-1], ()) if edge.fingerprint not in path]
        if not ahead:
            return path
        best = max(ahead, key=lambda edge: (edge.fingerprint in living, edge.promoted, edge.order))
        path.append(best.fingerprint)


def spare_pairs(start: str | None, edges: Sequence[Edge]) -> list[str]:
    """The other pairs of the same tree that nobody has used up yet and Kommo has not refused, youngest first.

    They are worth a try before a connection is declared dead.
    """
    path = end_of_chain(start, edges)
    if start is None:
        return []
    known = _merged(edges)
    root = _ancestry(start, known)[-1]
    used_up = {edge.used for edge in known.values()}
    spares = [
        edge
        for edge in known.values()
        if edge.fingerprint not in used_up
        and edge.fingerprint != path[-1]
        and not edge.dead
        and _ancestry(edge.fingerprint, known)[-1] == root
    ]
    return [edge.fingerprint for edge in sorted(spares, key=lambda edge: edge.order, reverse=True)]


def may_follow(current: str | None, offered: str, edges: Sequence[Edge]) -> bool:
    """Whether a connection whose current pair is `current` may go over to `offered`: never back.

    Along the chain only forward. Between trees only to that of the younger consent: a refresh of the old one that
    comes in late must not take the connection over. Between branches of one tree to a living one from a dead one,
    else to the younger.
    """
    if current is None:
        return True
    known = _merged(edges)
    above_current, above_offered = _ancestry(current, known), _ancestry(offered, known)
    if current in above_offered:
        return current != offered
    if offered in above_current:
        return False
    if above_current[-1] != above_offered[-1]:
        return _eldest(above_offered, known) > _eldest(above_current, known)
    living = _leading_to_life(_by_parent(known.values()))
    return (offered in living, known[offered].order) > (current in living, known[current].order)


def _merged(edges: Iterable[Edge]) -> dict[str, Edge]:
    """The edges by fingerprint. The block and the journal may both know one; each adds what it knows."""
    known: dict[str, Edge] = {}
    for edge in edges:
        other = known.get(edge.fingerprint, edge)
        younger = max(edge, other, key=lambda one: one.order)
        known[edge.fingerprint] = replace(
            younger, promoted=edge.promoted or other.promoted, dead=edge.dead or other.dead
        )
    return known


def _by_parent(edges: Iterable[Edge]) -> dict[str, list[Edge]]:
    children: dict[str, list[Edge]] = {}
    for edge in edges:
        children.setdefault(edge.used, []).append(edge)
    return children


def _leading_to_life(children: Mapping[str, Sequence[Edge]]) -> set[str]:
    """The pairs from which a pair can be reached that is neither used up nor refused; themselves included."""
    parents = {edge.fingerprint: parent for parent, edges in children.items() for edge in edges}
    living: set[str] = set()
    for edges in children.values():
        for edge in edges:
            at: str | None = edge.fingerprint
            if edge.dead or edge.fingerprint in children:
                continue
            while at is not None and at not in living:
                living.add(at)
                at = parents.get(at)
    return living


def _ancestry(fingerprint: str, known: Mapping[str, Edge]) -> list[str]:
    """The pair itself, then what it was got with, and so on to what nothing is known of."""
    path = [fingerprint]
    while (edge := known.get(path[-1])) is not None and edge.used not in path:
        path.append(edge.used)
    return path


def _eldest(ancestry: Sequence[str], known: Mapping[str, Edge]) -> int:
    """The order of the oldest known pair of an ancestry; less than any other if none is known."""
    return min((known[one].order for one in ancestry if one in known), default=-1)
