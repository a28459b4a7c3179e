"""Lists (catalogs) and their elements, reading only: the fact sheet names them but prints no pages of them."""

from sandbox import render
from sandbox.call import Call, Route
from sandbox.paging import page_of
from sandbox.query import filtered
from sandbox.state import Record
from sandbox.wire import Response, dumps, hal, no_content


def _shown(call: Call, record: Record) -> Record:
    return record | {
        "account_id": call.account.id,
        "_links": render.link(call.account, f"catalogs/{record['id']}"),
    }


def listing(call: Call) -> Response:
    """GET /catalogs."""
    return page_of(call, "catalogs", list(call.account.catalogs), lambda record: dumps(_shown(call, record)))


def single(call: Call) -> Response:
    """GET /catalogs/{id}."""
    record = call.account.catalogs.get(call.number("id"))
    return hal(_shown(call, record)) if record else no_content()


def _element(call: Call, record: Record) -> Record:
    place = f"catalogs/{record['catalog_id']}/elements/{record['id']}"
    return record | {"account_id": call.account.id, "_links": render.link(call.account, place)}


def elements(call: Call) -> Response:
    """GET /catalogs/{id}/elements."""
    held = list(call.account.elements.get(call.number("id"), ()))
    held = filtered(held, call.query.get("filter"), {"id": ("id", "ids")})
    words = call.request.first("query").casefold()
    held = [record for record in held if words in record["name"].casefold()]
    return page_of(call, "elements", held, lambda record: dumps(_element(call, record)))


def element(call: Call) -> Response:
    """GET /catalogs/{id}/elements/{eid}."""
    held = call.account.elements.get(call.number("id"))
    record = held.get(call.number("eid")) if held is not None else None
    return hal(_element(call, record)) if record else no_content()


ROUTES = [
    Route("GET", "catalogs", listing),
    Route("GET", "catalogs/{id}", single),
    Route("GET", "catalogs/{id}/elements", elements),
    Route("GET", "catalogs/{id}/elements/{eid}", element),
]
