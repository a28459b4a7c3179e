"""Pages as Kommo cuts them (fact sheet 2.5): 204 for an empty page, totals only where they are real.

Lists of records answer `_page` and `next`; custom fields, users and roles answer totals as well; pipelines, sources
and webhooks come whole. Over the largest page size the answer is 422 "Limit 250 per page" [D].
"""

from collections.abc import Callable, Sequence
from typing import Literal
from urllib.parse import quote

from sandbox import errors
from sandbox.call import Call
from sandbox.state import Record
from sandbox.wire import HAL, Response, dumps, no_content

Render = Callable[[Record], bytes]


def _number(call: Call, name: str, default: int, highest: int | None) -> int:
    text = call.request.first(name)
    if not text:
        return default
    if (
        not text.isdecimal()
        or len(text) > 18
        or int(text) < 1
        or (highest is not None and int(text) > highest)
    ):
        raise errors.unprocessable(f"Limit {highest} per page" if highest else "Invalid page number")
    return int(text)


def _window(items: Sequence[Record], page: int, limit: int, call: Call) -> tuple[Sequence[Record], bool]:
    """The items of a page and whether more follow; shifted when a fault asks for it."""
    quirks = call.quirks
    if quirks.rotate and items:
        turn = quirks.rotate % len(items)
        items = [*items[turn:], *items[:turn]]
    back = min(quirks.repeat, limit - 1) * (page - 1)
    start = (page - 1) * limit - back
    return items[start : start + limit], start + limit < len(items)


def _links(call: Call, page: int, limit: int, *, more: bool, last: int | None) -> dict[str, dict[str, str]]:
    base = (call.quirks.link_base or call.account.url) + call.request.path
    kept = "".join(
        f"{quote(name, safe='[]')}={quote(value, safe=',:@')}&"
        for name, value in call.request.query
        if name not in {"page", "limit"}
    )

    def at(number: int) -> dict[str, str]:
        return {"href": f"{base}?{kept}page={number}&limit={limit}"}

    links = {"self": at(page)}
    if more:
        links["next"] = at(page + 1)
    if last is not None:
        return links | ({"last": at(last)} if last > 1 else {})
    if page > 1:
        links |= {"first": at(1), "prev": at(page - 1)}
    return links


def page_of(
    call: Call,
    key: str,
    items: Sequence[Record],
    render: Render,
    *,
    totals: bool = False,
    most: int = 250,
    default: int = 50,
) -> Response:
    """One page of a list.

    Args:
        call: The call, for page, limit and the host of the links.
        key: Name of the list under `_embedded`.
        items: Everything that the query found.
        render: JSON bytes of one item.
        totals: Answer `_total_items`, `_page_count` and `last`.
        most: Largest page size.
        default: Page size when none is asked for.
    """
    limit, page = _number(call, "limit", default, most), _number(call, "page", 1, None)
    found, more = _window(items, page, limit, call)
    if not found:
        return no_content()
    pages = -(-len(items) // limit)
    head: dict[str, object] = {"_total_items": len(items)} if totals else {}
    head["_page"] = page
    if totals:
        head["_page_count"] = pages
    more = more or call.quirks.phantom_next
    head["_links"] = _links(call, page, limit, more=more, last=pages if totals else None)
    return envelope(head, key, [render(item) for item in found])


def whole(
    call: Call,
    key: str,
    items: Sequence[Record],
    render: Callable[[Record], object],
    *,
    links: bool = True,
    empty: Literal["204", "list"] = "204",
) -> Response:
    """A list that comes at once, with its total.

    Args:
        call: The call.
        key: Name of the list under `_embedded`.
        items: All items.
        render: The item as the API shows it.
        links: Whether the envelope has `_links` (webhooks and statuses have none).
        empty: What an empty list looks like.
    """
    if not items and empty == "204":
        return no_content()
    head: dict[str, object] = {"_total_items": len(items)}
    if links:
        head["_links"] = {"self": {"href": (call.quirks.link_base or call.account.url) + call.request.path}}
    return envelope(head, key, [dumps(render(item)) for item in items])


def envelope(head: dict[str, object], key: str, fragments: list[bytes], status: int = 200) -> Response:
    """The HAL wrapper around ready fragments."""
    opening = dumps(head)[:-1] + (b"," if head else b"")
    body = opening + b'"_embedded":{"' + key.encode() + b'":[' + b",".join(fragments) + b"]}}"
    return Response(status, body, HAL)
