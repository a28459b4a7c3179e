"""Which handler answers which path. A path known under another method is 405, an unknown one 404 [D]."""

import re
from functools import lru_cache
from itertools import chain

from sandbox.call import Route
from sandbox.routes import (
    catalogs,
    entities,
    fields,
    hooks,
    messages,
    notes,
    pipelines,
    setup,
    tasks,
    unsorted,
)

_ROUTES: list[tuple[re.Pattern[str], Route]] = [
    (route.pattern(), route)
    for route in chain(
        setup.ROUTES,
        pipelines.ROUTES,
        fields.ROUTES,
        tasks.ROUTES,
        notes.ROUTES,
        messages.ROUTES,
        unsorted.ROUTES,
        hooks.ROUTES,
        catalogs.ROUTES,
        entities.ROUTES,
    )
]


@lru_cache(maxsize=4096)
def _resolve(method: str, path: str) -> tuple[Route | None, tuple[tuple[str, str], ...], bool]:
    known = False
    for pattern, route in _ROUTES:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        if route.method == method:
            return route, tuple(match.groupdict().items()), True
        known = True
    return None, (), known


def resolve(method: str, path: str) -> tuple[Route | None, dict[str, str], bool]:
    """The route of a request.

    Args:
        method: HTTP method.
        path: Decoded path.

    Returns:
        Route or None, values of the placeholders, and whether the path is known under any method.
    """
    route, params, known = _resolve(method, path)
    return route, dict(params), known
