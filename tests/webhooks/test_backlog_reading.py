"""Which events are read together, and how those that cannot be read are found: without a database or a network."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from kommo.client import KommoClient
from kommo.errors import ErrorKind, KommoError
from store.inbox import NewEvent
from tasks import backlog_read
from tasks.backlog_plan import CHUNK, Plan, batches, plan
from tasks.backlog_read import Reading, read_records
from tests.webhooks.backlog_support import happening, stored

CLIENT = cast("KommoClient", None)


def planned(*events: NewEvent, more: bool = False) -> Plan:
    return plan([stored(event, number) for number, event in enumerate(events, 1)], more=more)


def leads(count: int, first: int = 1) -> list[NewEvent]:
    return [happening("leads", "update", number) for number in range(first, first + count)]


def test_the_events_of_one_entity_are_one_group_in_their_order() -> None:
    made = planned(
        happening("leads", "add", 1),
        happening("contacts", "add", 1),
        happening("leads", "update", 1),
        happening("messages", "add", "a"),
    )
    [group] = made.read["leads"]
    assert [event.id for event in group.events] == [1, 3]
    assert [one.entity for one in made.plain] == ["messages"]
    assert list(made.read) == ["leads", "contacts"]


@pytest.mark.parametrize("entity_id", ["", "abc", "-1", "0", "1.5", "٣", str(2**63), "9" * 400])
def test_an_id_that_nobody_can_read_is_told_apart(entity_id: str) -> None:
    made = planned(happening("leads", "update", entity_id), happening("leads", "update", 5))
    assert [group.entity_id for group, _ in made.unfit] == [entity_id]
    assert [group.entity_id for group in made.read["leads"]] == ["5"]


def test_an_event_without_fields_is_told_apart_and_its_entity_goes_on() -> None:
    events = [stored(happening("leads", "update", 5), number) for number in (1, 2)]
    odd = cast("Any", type(events[0]))(
        **{**{name: getattr(events[0], name) for name in events[0].__slots__}, "payload": "x"}
    )
    made = plan([odd, events[1]], more=False)
    assert [group.events for group, _ in made.unfit] == [(odd,)]
    assert [group.events for group in made.read["leads"]] == [(events[1],)]


def test_while_more_wait_only_full_requests_are_sent() -> None:
    made = planned(*leads(2 * CHUNK + 10), happening("contacts", "add", 1), more=True)
    assert {entity: len(groups) for entity, groups in made.read.items()} == {"leads": 2 * CHUNK}
    assert made.held_back == 11
    assert made.read["leads"][0].entity_id == "1"
    assert planned(*leads(CHUNK + 1)).held_back == 0


def test_if_no_request_would_be_full_they_are_sent_as_they_are() -> None:
    made = planned(*leads(3), happening("contacts", "add", 1), more=True)
    assert (made.held_back, len(made.read["leads"]), len(made.read["contacts"])) == (0, 3, 1)


def test_batches_are_whole_groups_of_about_so_many_events() -> None:
    events = [happening("leads", "update", 1) for _ in range(7)] + leads(5, first=2)
    groups = planned(*events).read["leads"]
    sizes = [[len(group.events) for group in batch] for batch in batches(groups, 3)]
    assert sizes == [[7], [1, 1, 1], [1, 1]]


class Kommo:
    """A Kommo in which reading some ids fails, or everything does."""

    def __init__(self, *poison: int, kind: ErrorKind = ErrorKind.SERVER_ERROR, down: bool = False) -> None:
        self.poison = set(poison)
        self.kind = kind
        self.down = down
        self.asked: list[Sequence[int]] = []

    async def __call__(
        self, _client: KommoClient, entity: str, ids: Sequence[int]
    ) -> dict[int, dict[str, Any]]:
        self.asked.append(ids)
        if self.down or self.poison & set(ids):
            raise KommoError(self.kind, method="GET", path=f"/api/v4/{entity}", status=500)
        return {number: {"id": number} for number in ids if number % 10}

    async def read(
        self, monkeypatch: pytest.MonkeyPatch, ids: Sequence[int], *, known: int | None = None
    ) -> Reading:
        monkeypatch.setattr(backlog_read, "read_by_ids", self)

        async def some(_entity: str, _ids: Sequence[int]) -> int | None:
            return known

        return await read_records(CLIENT, "leads", ids, some)


async def test_what_is_read_is_known_to_be_there_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    kommo = Kommo()
    reading = await kommo.read(monkeypatch, range(1, 251))
    assert len(kommo.asked) == 1
    assert reading.answered == set(range(1, 251))
    assert set(reading.records) == {number for number in range(1, 251) if number % 10}
    assert reading.blamed == {}


@pytest.mark.parametrize("known", [999, None])
@pytest.mark.parametrize("kind", [ErrorKind.SERVER_ERROR, ErrorKind.MALFORMED, ErrorKind.VALIDATION])
async def test_w3_the_one_that_cannot_be_read_is_found_and_the_others_are_read(
    monkeypatch: pytest.MonkeyPatch, kind: ErrorKind, known: int | None
) -> None:
    kommo = Kommo(77, kind=kind)
    reading = await kommo.read(monkeypatch, range(1, 251), known=known)
    assert set(reading.blamed) == {77}
    assert reading.answered == set(range(1, 251)) - {77}
    assert len(kommo.asked) <= 20


async def test_w3_several_that_cannot_be_read_are_found_as_far_as_the_probes_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kommo = Kommo(1, 90, 250)
    reading = await kommo.read(monkeypatch, range(1, 251))
    assert len(reading.blamed) >= 1
    assert set(reading.blamed) <= {1, 90, 250}
    assert not reading.answered & {1, 90, 250}
    assert len(reading.answered) > 100
    assert len(kommo.asked) <= 45


@pytest.mark.parametrize("known", [999, None])
async def test_in_an_outage_no_item_is_to_blame(monkeypatch: pytest.MonkeyPatch, known: int | None) -> None:
    kommo = Kommo(down=True)
    with pytest.raises(KommoError):
        await kommo.read(monkeypatch, range(1, 251), known=known)
    # With something to compare with, one more request is enough to know.
    assert len(kommo.asked) == (2 if known else 9)


async def test_what_has_been_divided_already_is_divided_again_only_if_kommo_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kommo = Kommo(7, kind=ErrorKind.GATEWAY)
    with pytest.raises(KommoError):
        await kommo.read(monkeypatch, [7, 8])
    assert len(kommo.asked) == 1
    assert set((await kommo.read(monkeypatch, [7, 8], known=999)).blamed) == {7}


async def test_two_that_cannot_be_read_are_to_blame_if_something_else_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert set((await Kommo(7, 8).read(monkeypatch, [7, 8], known=999)).blamed) == {7, 8}
    with pytest.raises(KommoError):
        await Kommo(7, 8).read(monkeypatch, [7, 8])
    assert set((await Kommo(7).read(monkeypatch, [7])).blamed) == {7}


@pytest.mark.parametrize(
    "kind",
    [
        ErrorKind.RATE_LIMITED,
        ErrorKind.UNREACHABLE,
        ErrorKind.TIMEOUT,
        ErrorKind.UNAUTHORIZED,
        ErrorKind.PAYMENT_REQUIRED,
        ErrorKind.FORBIDDEN,
        ErrorKind.IP_BLOCKED,
        ErrorKind.BUDGET_BLOCKED,
    ],
)
async def test_what_no_item_can_cause_is_not_looked_into(
    monkeypatch: pytest.MonkeyPatch, kind: ErrorKind
) -> None:
    kommo = Kommo(7, kind=kind)
    with pytest.raises(KommoError):
        await kommo.read(monkeypatch, [7, 8], known=9)
    assert len(kommo.asked) == 1
