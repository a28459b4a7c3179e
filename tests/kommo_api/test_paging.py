"""S4: reading n items that shift between pages ends with n distinct items, no loss, no double."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kommo import paging
from kommo.answers import Answer
from kommo.catalogue import CATALOGUE, Resource
from kommo.errors import ErrorKind, KommoError
from kommo.readahead import PAGES_AHEAD

PLAIN = Resource("things", "/api/v4/things", "things", page_size=3)
COUNTED = replace(PLAIN, totals=True)
ORDERED = replace(PLAIN, order=("id", "asc"))
Query = Sequence[tuple[str, str]]


class Listing:
    """A list at Kommo that may change between the pages: `change(number of the request, ids)`."""

    def __init__(
        self,
        ids: list[int],
        *,
        totals: bool = False,
        change: Callable[[int, list[int]], None] = lambda *_: None,
        link: str = "https://acme.kommo.com",
    ) -> None:
        self.ids = ids
        self.totals = totals
        self.change = change
        self.link = link
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []

    async def fetch(self, path: str, query: Query) -> Answer:
        self.asked.append((path, list(query)))
        self.change(len(self.asked), self.ids)
        given = dict(query)
        page, size = int(given["page"]), int(given["limit"])
        part = self.ids[(page - 1) * size : page * size]
        if not part:
            return Answer(204, None)
        data: dict[str, Any] = {"_embedded": {"things": [{"id": id_} for id_ in part]}, "_links": {}}
        if self.totals:
            data["_total_items"] = len(self.ids)
        if page * size < len(self.ids):
            following = urlencode([*((k, v) for k, v in query if k != "page"), ("page", page + 1)])
            data["_links"]["next"] = {"href": f"{self.link}{path}?{following}"}
        return Answer(200, data)


def ids_of(items: list[dict[str, Any]]) -> list[int]:
    return [item["id"] for item in items]


async def all_pages(listing: Listing, resource: Resource, params: Query = ()) -> list[int]:
    return [item["id"] async for page in paging.pages(listing.fetch, resource, params) for item in page]


@given(count=st.integers(0, 30), size=st.integers(1, 7), totals=st.booleans())
async def test_a_quiet_list_is_read_whole_and_once(count: int, size: int, *, totals: bool) -> None:
    listing = Listing(list(range(1, count + 1)), totals=totals)
    resource = replace(PLAIN, page_size=size, totals=totals)
    assert ids_of(await paging.read_all(listing.fetch, resource)) == list(range(1, count + 1))
    assert len(listing.asked) == max(1, -(-count // size))
    assert await all_pages(listing, resource) == list(range(1, count + 1))


changes = st.dictionaries(
    st.integers(1, 8), st.tuples(st.sampled_from(["add", "delete"]), st.integers(0, 20))
)


@given(count=st.integers(0, 20), size=st.integers(1, 5), plan=changes)
async def test_s4_a_counted_list_that_changes_under_our_eyes_ends_whole(
    count: int, size: int, plan: dict[int, tuple[str, int]]
) -> None:
    fresh = iter(range(1000, 2000))

    def change(request: int, ids: list[int]) -> None:
        what, where = plan.get(request, ("", 0))
        if what == "add":
            ids.insert(where % (len(ids) + 1), next(fresh))
        elif what == "delete" and ids:
            ids.pop(where % len(ids))

    listing = Listing(list(range(1, count + 1)), totals=True, change=change)
    found = await paging.read_all(listing.fetch, replace(COUNTED, page_size=size), passes=15)
    # One change may fall between the last page and the end of the reading; what was read was true at some time.
    assert len(set(ids_of(found))) == len(found)
    last = plan.get(len(listing.asked), ("", 0))
    assert last[0] or sorted(ids_of(found)) == sorted(listing.ids)


async def test_s4_an_item_added_in_front_is_neither_lost_nor_doubled() -> None:
    listing = Listing([1, 2, 3, 4, 5, 6], change=lambda n, ids: ids.insert(0, 99) if n == 2 else None)
    assert sorted(ids_of(await paging.read_all(listing.fetch, PLAIN))) == [1, 2, 3, 4, 5, 6, 99]


async def test_s4_a_deletion_during_the_reading_is_noticed_where_totals_are_given() -> None:
    listing = Listing(
        [1, 2, 3, 4, 5, 6], totals=True, change=lambda n, ids: ids.remove(1) if n == 2 else None
    )
    assert ids_of(await paging.read_all(listing.fetch, COUNTED)) == [2, 3, 4, 5, 6]


async def test_s1_a_list_that_stays_short_of_its_total_is_never_taken_for_whole() -> None:
    async def short(_: str, __: Query) -> Answer:
        return Answer(200, {"_total_items": 3, "_embedded": {"things": [{"id": 1}, {"id": 2}]}})

    with pytest.raises(KommoError) as caught:
        await paging.read_all(short, COUNTED)
    assert caught.value.kind is ErrorKind.UNSTABLE_LISTING
    assert caught.value.retryable


async def test_a_total_that_counts_something_else_is_survived_when_two_readings_agree() -> None:
    async def fewer(_: str, __: Query) -> Answer:
        return Answer(200, {"_total_items": 1, "_embedded": {"things": [{"id": 1}, {"id": 2}]}})

    assert ids_of(await paging.read_all(fewer, COUNTED)) == [1, 2]


async def test_s4_overlapping_pages_are_put_together_until_the_total_is_reached() -> None:
    orders = iter([[1, 2, 3, 1, 2, 4], [1, 2, 3, 4, 5, 5], [6, 5, 4, 1, 1, 2]])

    def shuffle(request: int, ids: list[int]) -> None:
        if request % 2:
            ids[:] = next(orders)

    listing = Listing([0] * 6, totals=True, change=shuffle)
    assert sorted(ids_of(await paging.read_all(listing.fetch, COUNTED))) == [1, 2, 3, 4, 5, 6]


async def test_a_deleted_item_does_not_come_back_from_an_earlier_reading() -> None:
    def change(request: int, ids: list[int]) -> None:
        if request == 2:
            ids.remove(1)
        if request == 4:
            ids[:] = [2, 3, 4, 5, 6]

    listing = Listing([1, 2, 3, 4, 5, 6], totals=True, change=change)
    assert 1 not in ids_of(await paging.read_all(listing.fetch, COUNTED))


@pytest.mark.parametrize(
    "link", ["https://evil.example", "http://acme.kommo.com", "https://shard151.kommo.com:8443", ""]
)
async def test_r4_only_path_and_query_of_a_link_are_used(link: str) -> None:
    listing = Listing(list(range(9)), link=link)
    await paging.read_all(listing.fetch, PLAIN)
    assert {path for path, _ in listing.asked} == {"/api/v4/things"}
    assert [dict(query)["page"] for _, query in listing.asked] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "href", ["https://acme.kommo.com/oauth2/access_token", "/api/v4/../../x", "http://[", 17, "/api/v5/"]
)
async def test_r4_a_link_out_of_the_api_is_refused(href: object) -> None:
    async def fetch(_: str, __: Query) -> Answer:
        return Answer(200, {"_embedded": {"things": [{"id": 1}]}, "_links": {"next": {"href": href}}})

    with pytest.raises(KommoError) as caught:
        await paging.read_all(fetch, PLAIN)
    assert caught.value.kind is ErrorKind.MALFORMED


async def test_a_next_link_whose_page_answers_204_ends_the_list() -> None:
    listing = Listing([1, 2, 3, 4], change=lambda n, ids: ids.remove(4) if n == 2 else None)
    assert ids_of(await paging.read_all(listing.fetch, PLAIN)) == [1, 2, 3]


@pytest.mark.parametrize("following", ["page=1&limit=3", "limit=3&page=1", "page=2&limit=3"])
async def test_a_link_back_to_a_page_already_read_ends_in_an_error(following: str) -> None:
    async def fetch(_: str, __: Query) -> Answer:
        link = {"href": f"/api/v4/things?{following}"}
        return Answer(200, {"_embedded": {"things": [{"id": 1}]}, "_links": {"next": link}})

    for reading in (paging.read_all(fetch, PLAIN), _drain(paging.pages(fetch, PLAIN))):
        with pytest.raises(KommoError) as caught:
            await reading
        assert caught.value.kind is ErrorKind.ENDLESS_LISTING


async def _drain(pages: Any) -> None:
    async for _ in pages:
        pass


@pytest.mark.parametrize("resource", [PLAIN, ORDERED])
async def test_a_server_that_ignores_the_page_number_does_not_hold_us_for_ever(resource: Resource) -> None:
    requests = 0

    async def fetch(path: str, query: Query) -> Answer:
        nonlocal requests
        requests += 1
        link = {"href": f"{path}?page={int(dict(query)['page']) + 1}&limit=3"}
        return Answer(200, {"_embedded": {"things": [{"id": 1}]}, "_links": {"next": link}})

    for reading in (paging.read_all(fetch, resource), _drain(paging.pages(fetch, resource))):
        with pytest.raises(KommoError) as caught:
            await reading
        assert caught.value.kind is ErrorKind.ENDLESS_LISTING
    assert requests < 30


async def test_filters_that_a_link_has_dropped_are_put_back() -> None:
    listing = Listing(list(range(1, 7)))
    bare = listing.fetch

    async def forgetful(path: str, query: Query) -> Answer:
        answer = await bare(path, query)
        assert isinstance(answer.data, dict)
        if answer.data["_links"]:
            answer.data["_links"]["next"] = {"href": f"{path}?page=2&limit=3&filter[id][0]=7"}
        return answer

    await paging.read_all(forgetful, PLAIN, [("filter[id][]", "7"), ("with", "x")])
    assert sorted(listing.asked[1][1]) == [
        ("filter[id][0]", "7"),
        ("limit", "3"),
        ("page", "2"),
        ("with", "x"),
    ]


@given(st.lists(st.integers(1, 60), unique=True, max_size=40), st.integers(1, 7))
async def test_s4_without_an_order_repeats_are_dropped_page_by_page(ids: list[int], size: int) -> None:
    repeated = [id_ for id_ in ids for _ in range(2)]
    listing = Listing(repeated)
    found = await all_pages(listing, replace(PLAIN, page_size=max(size, 2)))
    assert found == ids


async def test_s4_in_ascending_order_nothing_but_the_last_id_is_remembered() -> None:
    listing = Listing([1, 2, 3, 4, 5, 6], change=lambda n, ids: ids.insert(0, 0) if n == 2 else None)
    assert await all_pages(listing, ORDERED) == [1, 2, 3, 4, 5, 6]


async def test_an_order_that_breaks_half_way_is_an_error_and_one_that_never_was_is_none() -> None:
    with pytest.raises(KommoError) as caught:
        await all_pages(Listing([1, 2, 3, 9, 8, 7]), ORDERED)
    assert caught.value.kind is ErrorKind.UNSTABLE_LISTING
    assert await all_pages(Listing([3, 2, 1, 3, 8, 7]), ORDERED) == [3, 2, 1, 8, 7]
    assert await all_pages(Listing([1, 2, 3, 9, 8, 7]), ORDERED, [("order[id]", "desc")]) == [
        1,
        2,
        3,
        9,
        8,
        7,
    ]


@pytest.mark.parametrize(
    ("data", "ids"),
    [
        (None, []),
        ({"_total_items": 0, "_embedded": []}, []),
        ({"_embedded": {}}, []),
        ({"_embedded": {"things": None}}, []),
        ({"_embedded": {"things": []}}, []),
        ({"_embedded": {"things": {"0": {"id": 1}, "2": {"id": 2}}}}, [1, 2]),
        ({"id": 5, "name": "bare"}, [5]),
        ([{"id": 1}, {"id": 2}], [1, 2]),
    ],
)
async def test_every_printed_shape_of_a_collection_is_understood(data: Any, ids: list[int]) -> None:
    async def fetch(_: str, __: Query) -> Answer:
        return Answer(200, data)

    assert ids_of(await paging.read_all(fetch, PLAIN)) == ids


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"_embedded": {"other": []}},
        {"_embedded": {"things": "x"}},
        {"_embedded": {"things": [1]}},
        {"_embedded": {"things": [{"name": "no id"}]}},
        {"_embedded": {"things": [{"id": None}]}},
    ],
)
async def test_s1_a_shape_that_is_no_collection_is_not_taken_for_an_empty_one(data: Any) -> None:
    async def fetch(_: str, __: Query) -> Answer:
        return Answer(200, data)

    with pytest.raises(KommoError) as caught:
        await paging.read_all(fetch, PLAIN)
    assert caught.value.kind is ErrorKind.MALFORMED


@pytest.mark.parametrize("name", ["channels", "sources", "talks"])
@pytest.mark.parametrize(("status", "kind"), [(404, ErrorKind.NOT_FOUND), (403, ErrorKind.FORBIDDEN)])
async def test_an_account_without_the_list_has_none_of_it(name: str, status: int, kind: ErrorKind) -> None:
    async def fetch(_: str, __: Query) -> Answer:
        raise KommoError(kind, status=status)

    assert await paging.read_all(fetch, CATALOGUE[name]) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [("channels", ErrorKind.IP_BLOCKED), ("users", ErrorKind.FORBIDDEN), ("pipelines", ErrorKind.FORBIDDEN)],
)
async def test_s1_a_block_or_a_missing_right_is_not_an_empty_list(name: str, kind: ErrorKind) -> None:
    async def fetch(_: str, __: Query) -> Answer:
        raise KommoError(kind, status=403)

    with pytest.raises(KommoError) as caught:
        await paging.read_all(fetch, CATALOGUE[name])
    assert caught.value.kind is kind


@pytest.mark.parametrize("resource", CATALOGUE.values(), ids=list(CATALOGUE))
def test_every_row_of_the_catalogue_can_be_asked_for_and_names_its_source(resource: Resource) -> None:
    assert resource.path.startswith("/api/v4/")
    assert resource.source
    assert 1 <= resource.page_size <= (100 if resource.name == "events" else 250)
    asked = parse_qsl(urlencode(resource.params()))
    assert (("page", "1") in asked) is resource.paged
    if resource.name == "account":
        assert dict(asked)["with"].split(",")[2] == "task_types"


async def test_a_counted_list_is_fetched_ahead_and_asked_for_no_more_than_it_has() -> None:
    listing = Listing(list(range(1, 31)), totals=True)
    under_way = most = 0

    async def fetch(path: str, query: Query) -> Answer:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return await listing.fetch(path, query)

    assert ids_of(await paging.read_all(fetch, COUNTED)) == list(range(1, 31))
    assert len(listing.asked) == 10
    assert most == PAGES_AHEAD + 1


async def test_what_was_fetched_ahead_is_dropped_when_nobody_wants_it() -> None:
    listing = Listing(list(range(1, 31)), totals=True)
    cancelled = 0

    async def fetch(path: str, query: Query) -> Answer:
        nonlocal cancelled
        try:
            await asyncio.sleep(0.0 if dict(query)["page"] == "1" else 5.0)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return await listing.fetch(path, query)

    async with contextlib.aclosing(paging.walk(fetch, COUNTED)) as walked:
        assert (await anext(walked)).total == 30
        await asyncio.sleep(0.01)
    assert cancelled == PAGES_AHEAD
