"""The account itself, its users, loss reasons and sources (fact sheet 3.1, 3.2, 3.5, 3.12)."""

from sandbox import errors, render
from sandbox.call import Call, Route
from sandbox.paging import page_of, whole
from sandbox.state import Record
from sandbox.wire import Response, dumps, hal, no_content

_HIDDEN = ("amojo_id", "uuid", "version", "drive_url", "is_api_filter_enabled", "entity_names")
_EMBEDDED = ("amojo_rights", "users_groups", "task_types", "datetime_settings", "invoices_settings")


def account(call: Call) -> Response:
    """GET /account: open to every user; most keys only with `with=` [D]."""
    held = call.account
    shown: Record = held.profile | {"current_user_id": call.user_id}
    shown |= {key: held.hidden[key] for key in _HIDDEN if key in call.with_}
    shown["_links"] = call.link("account")
    embedded = {key: held.hidden[key] for key in _EMBEDDED if key in call.with_}
    if embedded:
        shown["_embedded"] = embedded
    return hal(shown)


def users(call: Call) -> Response:
    """GET /users, administrators only [D]."""
    return page_of(
        call,
        "users",
        list(call.account.users),
        lambda record: dumps(render.user(call.account, record, call.with_)),
        totals=True,
    )


def user(call: Call) -> Response:
    """GET /users/{id}; the answer to an unknown id is not documented, 404 is chosen."""
    record = call.account.users.get(call.number("id"))
    if record is None:
        raise errors.entity_not_found()
    return hal(render.user(call.account, record, call.with_))


def loss_reasons(call: Call) -> Response:
    """GET /leads/loss_reasons: 204 when there are none or they are switched off [C PHP]."""
    reasons = list(call.account.loss_reasons) if call.account.profile["is_loss_reason_enabled"] else []
    return page_of(
        call,
        "loss_reasons",
        reasons,
        lambda record: dumps(render.loss_reason(call.account, record)),
        default=250,
    )


def loss_reason(call: Call) -> Response:
    """GET /leads/loss_reasons/{id}."""
    record = call.account.loss_reasons.get(call.number("id"))
    return hal(render.loss_reason(call.account, record)) if record else no_content()


def sources(call: Call) -> Response:
    """GET /sources: only the integration's own; 204 when it has none, which is usual [D]."""
    return whole(
        call, "sources", list(call.account.sources), lambda record: render.source(call.account, record)
    )


def source(call: Call) -> Response:
    """GET /sources/{id}: 204 for an unknown one [D]."""
    record = call.account.sources.get(call.number("id"))
    return hal(render.source(call.account, record)) if record else no_content()


ROUTES = [
    Route("GET", "account", account),
    Route("GET", "users", users, admin=True),
    Route("GET", "users/{id}", user, admin=True),
    Route("GET", "leads/loss_reasons", loss_reasons),
    Route("GET", "leads/loss_reasons/{id}", loss_reason),
    Route("GET", "sources", sources),
    Route("GET", "sources/{id}", source),
]
