"""Records by their ids and by when they changed: none lost, none made up, in as few requests as may be."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from kommo import paging
from kommo.answers import Answer
from kommo.catalogue import CATALOGUE
from kommo.client import KommoClient
from kommo.errors import ErrorKind, KommoError
from kommo.records import read_by_ids, read_changed, read_events

Query = Sequence[tuple[str, str]]
BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
START = int(BEGAN.timestamp())


class Account:
    """The lists of an account; `before` may change them ahead of each request, or raise what Kommo answers."""

    def __init__(self, records: dict[int, int], *, filters: bool = True, orders: bool = True) -> None:
        self.records = records
        self.filters = filters
        self.orders = orders
        self.before: Callable[[int, str, list[tuple[str, str]]], None] = lambda *_: None
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []

    @property
    def client(self) -> KommoClient:
        return cast("KommoClient", self)

    async def get(self, path: str, params: Query = ()) -> Answer:
        query = list(params)
        self.asked.append((path, query))
        self.before(len(self.asked), path, query)
        name = path.rpartition("/")[2]
        if name.isdecimal():
            number = int(name)
            return Answer(200, self._item(number)) if number in self.records else Answer(204, None)
        ids = list(self.records)
        wanted = {int(value) for key, value in query if key == "filter[id][]"}
        since = [int(value) for key, value in query if key == "filter[updated_at][from]"]
        if wanted and self.filters:
            ids = [number for number in ids if number in wanted]
        if since:
            ids = [number for number in ids if self.records[number] >= since[0]]
        if ("order[updated_at]", "asc") in query and self.orders:
            ids.sort(key=lambda number: (self.records[number], number))
        page, size = int(dict(query)["page"]), int(dict(query)["limit"])
        part = ids[(page - 1) * size : page * size]
        if not part:
            return Answer(204, None)
        data: dict[str, Any] = {"_embedded": {name: [self._item(number) for number in part]}, "_links": {}}
        if page * size < len(ids):
            data["_links"]["next"] = {"href": f"http://shard/api/v4/{name}?page={page + 1}"}
        return Answer(200, data)

    def iterate(self, name: str, params: Query = ()) -> Any:
        return paging.pages(self.get, CATALOGUE[name], params)

    def _item(self, number: int) -> dict[str, Any]:
        return {"id": number, "updated_at": self.records[number], "is_deleted": False}


async def everything(pages: Any) -> list[tuple[int, int]]:
    return [(item["id"], item["updated_at"]) async for page in pages for item in page]


async def test_ids_are_read_in_as_few_requests_as_may_be() -> None:
    account = Account(dict.fromkeys(range(1, 1001), START))
    wanted = [*range(400, 1040), 401, 401]
    found = await read_by_ids(account.client, "leads", wanted)
    assert sorted(found) == list(range(400, 1001))
    assert all(record["id"] == number for number, record in found.items())
    assert len(account.asked) == 3
    assert await read_by_ids(account.client, "leads", []) == {}
    assert len(account.asked) == 3


async def test_a_deleted_record_is_not_there() -> None:
    account = Account({1: START, 2: START})
    item = account._item
    account._item = lambda number: {**item(number), "is_deleted": number == 2}  # type: ignore[method-assign]  # on purpose
    assert list(await read_by_ids(account.client, "leads", [1, 2])) == [1]


async def test_where_the_filter_is_ignored_records_are_read_one_by_one() -> None:
    account = Account(dict.fromkeys(range(1, 600), START), filters=False)
    found = await read_by_ids(account.client, "contacts", [7, 599, 1000])
    assert sorted(found) == [7, 599]
    assert [path for path, _ in account.asked[1:]] == [f"/api/v4/contacts/{n}" for n in (7, 599, 1000)]


@pytest.mark.parametrize(
    "error",
    [
        KommoError(ErrorKind.GATEWAY, status=504),
        KommoError(ErrorKind.TOO_LARGE, status=200),
        KommoError(ErrorKind.UNEXPECTED_STATUS, status=414),
    ],
    ids=lambda error: error.kind.value,
)
async def test_a_request_that_is_too_much_is_halved(error: KommoError) -> None:
    account = Account(dict.fromkeys(range(1, 301), START))

    def refuse(_: int, __: str, query: list[tuple[str, str]]) -> None:
        if sum(key == "filter[id][]" for key, _ in query) > 70:
            raise error

    account.before = refuse
    assert sorted(await read_by_ids(account.client, "tasks", range(1, 301))) == list(range(1, 301))


async def test_other_faults_go_through_and_a_single_record_is_not_halved() -> None:
    account = Account({1: START, 2: START})

    def fail(kind: ErrorKind) -> Callable[..., None]:
        def before(*_: object) -> None:
            raise KommoError(kind)

        return before

    account.before = fail(ErrorKind.UNAUTHORIZED)
    with pytest.raises(KommoError):
        await read_by_ids(account.client, "leads", [1, 2])
    assert len(account.asked) == 1
    account.before = fail(ErrorKind.GATEWAY)
    with pytest.raises(KommoError):
        await read_by_ids(account.client, "leads", [1])
    assert len(account.asked) == 2


async def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="leads"):
        await read_by_ids(Account({}).client, "talks", [1])


@pytest.mark.parametrize("entity", ["leads", "companies", "tasks"])
async def test_what_changed_since_is_read_once_each(entity: str) -> None:
    account = Account({number: START - 500 + number // 3 for number in range(3000)})
    found = await everything(read_changed(account.client, entity, BEGAN))
    assert sorted(found) == [(number, START - 500 + number // 3) for number in range(1500, 3000)]
    assert len(account.asked) <= 7


async def test_many_changes_within_one_second_are_all_read() -> None:
    account = Account({number: START + (number > 2000) for number in range(2500)})
    found = await everything(read_changed(account.client, "leads", BEGAN))
    assert sorted(number for number, _ in found) == list(range(2500))


async def test_records_that_change_meanwhile_take_no_other_one_with_them() -> None:
    account = Account({number: START + number // 10 for number in range(2000)})

    def change(number: int, _: str, __: list[tuple[str, str]]) -> None:
        for known in range((number - 1) * 40, number * 40):
            account.records[known] = START + 10_000 + number

    account.before = change
    found = await everything(read_changed(account.client, "leads", BEGAN))
    assert {number for number, _ in found} == set(range(2000))
    newest = dict(sorted(found, key=lambda state: state[1]))
    assert all(newest[number] >= account.records[number] for number in range(40, 2000))


async def test_a_list_that_is_not_in_order_is_read_page_by_page() -> None:
    account = Account({number: START + (number * 7919) % 1000 for number in range(1000)}, orders=False)
    found = await everything(read_changed(account.client, "leads", BEGAN))
    assert sorted(number for number, _ in found) == list(range(1000))
    assert len(account.asked) == 4


async def test_events_are_asked_for_by_type_and_moment() -> None:
    account = Account({})
    assert [page async for page in read_events(account.client, BEGAN, ["lead_deleted", "task_deleted"])] == []
    ((path, query),) = account.asked
    assert path == "/api/v4/events"
    assert [value for key, value in query if key == "filter[type][]"] == ["lead_deleted", "task_deleted"]
    assert ("filter[created_at][from]", str(START)) in query
