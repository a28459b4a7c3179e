"""Pipelines and their stages (fact sheet 3.3). Reading is open to all, writing to administrators."""

from sandbox import errors, render
from sandbox.call import Call, Route
from sandbox.paging import envelope, whole
from sandbox.seed import new_pipeline, new_status
from sandbox.state import LOST, WON, Collection, Record
from sandbox.validate import Findings
from sandbox.wire import Response, dumps, hal, no_content

_COLORS = frozenset(
    [
        "#fffeb2",
        "#fffd7f",
        "#fff000",
        "#ffeab2",
        "#ffdc7f",
        "#ffce5a",
        "#ffdbdb",
        "#ffc8c8",
        "#ff8f92",
        "#d6eaff",
        "#c1e0ff",
        "#98cbff",
        "#ebffb1",
        "#deff81",
        "#87f2c0",
        "#f9deff",
        "#f3beff",
        "#ccc8f9",
        "#eb93ff",
        "#f2f3f4",
        "#e6e8ea",
    ]
)
_DEFAULT_COLOR = "#fffeb2"


def listing(call: Call) -> Response:
    """GET /leads/pipelines: everything at once, archived ones too [D]."""
    held = sorted(call.account.pipelines, key=lambda known: (known["sort"], known["id"]))
    return whole(call, "pipelines", held, lambda record: render.pipeline(call.account, record))


def _pipeline(call: Call) -> Record:
    record = call.account.pipelines.get(call.number("id"))
    if record is None:
        raise errors.entity_not_found()
    return record


def single(call: Call) -> Response:
    """GET /leads/pipelines/{id}: the bare object (amoCRM's page; Kommo's prints a wrapper) [D]."""
    return hal(render.pipeline(call.account, _pipeline(call)))


def statuses(call: Call) -> Response:
    """GET /leads/pipelines/{id}/statuses: total, no links [D]."""
    pipeline_id = _pipeline(call)["id"]
    held = call.account.statuses(pipeline_id)
    return whole(
        call, "statuses", held, lambda record: render.status(call.account, pipeline_id, record), links=False
    )


def _status(call: Call) -> Record:
    record = call.account.status(_pipeline(call)["id"], call.number("sid"))
    if record is None:
        raise errors.entity_not_found()
    return record


def status(call: Call) -> Response:
    """GET /leads/pipelines/{id}/statuses/{sid}."""
    return hal(render.status(call.account, call.number("id"), _status(call)))


def _check(call: Call, found: Findings, element: Record, path: str = "") -> None:
    found.typed(element, "name", str, path)
    found.typed(element, "sort", int, path)
    color = element.get("color")
    if color is not None and str(color).lower() not in _COLORS:
        found.unsupported(f"{path}color")
    del call


def create(call: Call) -> Response:
    """POST /leads/pipelines (array): Kommo adds the system stages itself; 142 and 143 can be renamed by id [D]."""
    elements, found = call.many(), Findings()
    for element in found.each(elements):
        found.required(element, "name", str)
        _check(call, found, element)
        found.embedded(element, "statuses")
        inner = element.get("_embedded")
        stages = inner.get("statuses") if isinstance(inner, dict) else None
        for place, stage in enumerate(stages if isinstance(stages, list) else ()):
            if isinstance(stage, dict):
                _check(call, found, stage, f"_embedded.statuses.{place}.")
    found.settle()
    fragments = []
    for index, element in enumerate(elements):
        record = _make(call, element)
        shown = render.pipeline(call.account, record)
        shown = {"request_id": str(element.get("request_id", index))} | shown
        fragments.append(dumps(shown))
    head = {"_total_items": len(fragments), "_links": call.link("leads/pipelines")}
    return envelope(head, "pipelines", fragments)


def _make(call: Call, element: Record) -> Record:
    account = call.account
    wanted: list[Record] = (element.get("_embedded") or {}).get("statuses") or []
    lang = str(call.user["lang"])
    record = new_pipeline(account, element["name"], lang, stages=())
    stages = list(record["_statuses"])
    for place, stage in enumerate(wanted):
        fixed = next(
            (known for known in stages if known["id"] == stage.get("id") and known["id"] in {WON, LOST}), None
        )
        if fixed is not None:
            stages[stages.index(fixed)] = fixed | {"name": stage.get("name", fixed["name"])}
        else:
            sort = int(stage["sort"]) if "sort" in stage else 20 + 10 * place
            color = str(stage.get("color", _DEFAULT_COLOR))
            stages.append(new_status(account, record["id"], str(stage.get("name", "New")), sort, color=color))
    record = account.pipelines.change(
        record["id"],
        _statuses=stages,
        sort=int(element["sort"] if "sort" in element else record["sort"]),
        is_unsorted_on=bool(element.get("is_unsorted_on", True)),
    )
    if element.get("is_main"):
        set_main(call.account.pipelines, record["id"])
    return account.pipelines.get(record["id"]) or record


def set_main(pipelines: Collection, pipeline_id: int) -> None:
    """Make one pipeline the main one, and no other."""
    for known in list(pipelines):
        pipelines.change(known["id"], is_main=known["id"] == pipeline_id)


def change(call: Call) -> Response:
    """PATCH /leads/pipelines/{id} (object)."""
    record, element, found = _pipeline(call), call.one(), Findings()
    _check(call, found, element)
    found.settle()
    keys = ("name", "sort", "is_unsorted_on", "is_archive")
    record = call.account.pipelines.change(
        record["id"], **{key: element[key] for key in keys if key in element}
    )
    if element.get("is_main"):
        set_main(call.account.pipelines, record["id"])
    return hal(render.pipeline(call.account, call.account.pipelines.get(record["id"]) or record))


def delete(call: Call) -> Response:
    """DELETE: unknown 400, the last one or one with leads 422; 204 (amoCRM) or 200 {} (Kommo) [D, C R#61046556067]."""
    account = call.account
    record = account.pipelines.get(call.number("id"))
    if record is None:
        raise errors.validation({"0": [errors.unsupported("id")]})
    if len(account.pipelines) == 1:
        raise errors.unprocessable("Can not delete the last pipeline")
    if any(lead["pipeline_id"] == record["id"] for lead in account.entities["leads"]):
        raise errors.unprocessable("Can not delete a pipeline with leads")
    account.pipelines.remove(record["id"])
    return no_content() if account.flavour == "amo" else hal({})


def create_statuses(call: Call) -> Response:
    """POST /leads/pipelines/{id}/statuses (array)."""
    pipeline, elements, found = _pipeline(call), call.many(), Findings()
    for element in found.each(elements):
        found.required(element, "name", str)
        _check(call, found, element)
    found.settle()
    made = []
    for index, element in enumerate(elements):
        sort, color = int(element.get("sort", 20)), str(element.get("color", _DEFAULT_COLOR))
        stage = new_status(call.account, pipeline["id"], element["name"], sort, color=color)
        pipeline = call.account.pipelines.change(pipeline["id"], _statuses=[*pipeline["_statuses"], stage])
        shown = {"request_id": str(element.get("request_id", index))}
        made.append(dumps(shown | render.status(call.account, pipeline["id"], stage)))
    return envelope({"_total_items": len(made)}, "statuses", made)


def change_status(call: Call) -> Response:
    """PATCH /leads/pipelines/{id}/statuses/{sid} (object)."""
    stage, element, found = _status(call), call.one(), Findings()
    _check(call, found, element)
    found.settle()
    keys = ("name", "sort", "color") if stage["is_editable"] else ("name",)
    changed = stage | {key: element[key] for key in keys if key in element}
    replace_status(call, stage, [changed])
    return hal(render.status(call.account, call.number("id"), changed))


def replace_status(call: Call, stage: Record, by: list[Record]) -> None:
    """Put other stages (or none) in the place of one."""
    pipeline = _pipeline(call)
    stages = [kept for known in pipeline["_statuses"] for kept in (by if known is stage else [known])]
    call.account.pipelines.change(pipeline["id"], _statuses=stages)


def delete_status(call: Call) -> Response:
    """DELETE of a stage: its leads go to the first stage [D A]; system stages stay."""
    stage = _status(call)
    if not stage["is_editable"]:
        raise errors.unprocessable("Can not delete a system status")
    replace_status(call, stage, [])
    first = next(known for known in call.account.statuses(call.number("id")) if known["type"] == 0)
    leads = call.account.entities["leads"]
    for lead in list(leads):
        if (lead["pipeline_id"], lead["status_id"]) == (call.number("id"), stage["id"]):
            leads.change(lead["id"], status_id=first["id"], updated_at=call.now)
    return no_content()


ROUTES = [
    Route("GET", "leads/pipelines", listing),
    Route("GET", "leads/pipelines/{id}", single),
    Route("GET", "leads/pipelines/{id}/statuses", statuses),
    Route("GET", "leads/pipelines/{id}/statuses/{sid}", status),
    Route("POST", "leads/pipelines", create, admin=True),
    Route("PATCH", "leads/pipelines/{id}", change, admin=True),
    Route("DELETE", "leads/pipelines/{id}", delete, admin=True),
    Route("POST", "leads/pipelines/{id}/statuses", create_statuses, admin=True),
    Route("PATCH", "leads/pipelines/{id}/statuses/{sid}", change_status, admin=True),
    Route("DELETE", "leads/pipelines/{id}/statuses/{sid}", delete_status, admin=True),
]
