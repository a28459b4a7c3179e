"""W1, W4: what comes at once is written together; who cannot be served in time is sent away at once."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import pytest

from gateway.intake import Capacity, Intake, TooBusyError
from store.database import Database
from store.errors import DatabaseUnavailableError
from store.inbox import NewDelivery, Saved, get_delivery, save_deliveries
from tests.gateway.hooks import Hooks, form
from tests.store.hooks import change, delivery

FULL_BATCH = Capacity(batch=10)


class Disk:
    """Stands in for the store: writes when it is let, and fails when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[NewDelivery]] = []
        self.may = asyncio.Event()
        self.may.set()
        self.error: Exception | None = None
        self.poison: set[str] = set()

    async def save(self, deliveries: Sequence[NewDelivery]) -> list[Saved]:
        await self.may.wait()
        if self.error is not None:
            raise self.error
        if any(one.delivery_id in self.poison and one.events for one in deliveries):
            raise ValueError("secret words of a customer")
        self.batches.append(list(deliveries))
        return [Saved(one.delivery_id, len(one.events), 0) for one in deliveries]


class Running:
    """An intake with its writer, and the disk that it writes to."""

    def __init__(self, capacity: Capacity | None = None) -> None:
        self.disk = Disk()
        self.intake = Intake(self.disk.save, capacity=capacity)

    async def __aenter__(self) -> Self:
        self.writer = asyncio.create_task(self.intake.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.disk.may.set()
        self.intake.close()
        async with asyncio.timeout(5):
            await self.writer

    def put(self, *names: str, **more: Any) -> "asyncio.Task[None]":
        events = [change(name) for name in names]
        given = [delivery(one, delivery_id=one.unique_key, **more) for one in events]
        return asyncio.create_task(self.intake.put(given))


async def _until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.001)


async def _begun(running: Running) -> None:
    """Until the writer has taken what there was."""
    await _until(lambda: running.intake._committing)


async def test_w1_what_comes_during_a_commit_is_written_by_the_next_one_together() -> None:
    async with Running() as running:
        running.disk.may.clear()
        first = running.put("first")
        await _begun(running)
        others = [running.put(f"n{number}") for number in range(50)]
        await asyncio.sleep(0.01)
        assert not first.done()
        running.disk.may.set()
        await asyncio.gather(first, *others)
        assert [len(batch) for batch in running.disk.batches] == [1, 50]


async def test_w1_transactions_keep_a_distance_and_whoever_comes_alone_does_not_wait() -> None:
    async with Running(Capacity(pace=0.1)) as running:
        await running.put("first")
        began = time.monotonic()
        await asyncio.gather(running.put("second"), running.put("third"))
        assert time.monotonic() - began > 0.05
        await asyncio.sleep(0.12)
        began = time.monotonic()
        await running.put("alone")
        assert time.monotonic() - began < 0.05
        assert [len(batch) for batch in running.disk.batches] == [1, 2, 1]


async def test_w1_a_transaction_has_an_upper_size_in_number_and_bytes() -> None:
    async with Running(Capacity(batch=10, batch_bytes=100)) as running:
        running.disk.may.clear()
        tasks = [running.put("first")]
        await _begun(running)
        tasks += [running.put(f"n{number}", body=b"x") for number in range(25)]
        tasks += [running.put(f"b{number}", body=b"x" * 150) for number in range(3)]
        await asyncio.sleep(0.01)
        running.disk.may.set()
        await asyncio.gather(*tasks)
        assert [len(batch) for batch in running.disk.batches] == [1, 10, 10, 6, 1, 1]


async def test_w1_a_transaction_has_an_upper_number_of_events_however_few_bytes_tell_of_them() -> None:
    async with Running(Capacity(batch_events=100)) as running:
        running.disk.may.clear()
        tasks = [running.put("first")]
        await _begun(running)
        for number in range(4):
            many = [change(f"{number}-{event}") for event in range(60)]
            tasks.append(asyncio.create_task(running.intake.put([delivery(*many)])))
        await asyncio.sleep(0.01)
        running.disk.may.set()
        await asyncio.gather(*tasks)
        assert [len(batch) for batch in running.disk.batches] == [1, 2, 2]


async def test_w1_while_the_database_hangs_all_are_sent_away_and_none_waits_for_long() -> None:
    loop = asyncio.get_running_loop()
    async with Running(Capacity(patience=0.15, longest=0.3)) as running:
        running.disk.may.clear()
        began = loop.time()
        waiting = [running.put("first"), running.put("second")]
        await asyncio.sleep(0.2)
        asked = loop.time()
        with pytest.raises(TooBusyError), running.intake.admitted():
            raise AssertionError
        assert loop.time() - asked < 0.05, "at once"
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in results] == [TooBusyError, TooBusyError]
        assert loop.time() - began < 1.0
        running.disk.may.set()
        await _until(lambda: not running.intake.is_busy)
        await running.put("after")
        assert running.disk.batches[-1][0].delivery_id == "after"


async def test_w1_whoever_was_sent_away_while_it_queued_is_not_written_any_more() -> None:
    async with Running(Capacity(patience=5, longest=0.1)) as running:
        running.disk.may.clear()
        first = running.put("first")
        await _begun(running)
        queued = running.put("queued")
        results = await asyncio.gather(first, queued, return_exceptions=True)
        assert [type(one) for one in results] == [TooBusyError, TooBusyError]
        running.disk.may.set()
        await running.put("after")
        names = [one.delivery_id for batch in running.disk.batches for one in batch]
        assert names == ["first", "after"], "of the first one nobody knew whether it was written"


async def test_w1_a_transaction_that_never_ends_is_given_up_and_the_next_one_is_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Running(Capacity(commit_seconds=0.1)) as running:
        running.disk.may.clear()
        with pytest.raises(TooBusyError):
            await running.put("first")
        running.disk.may.set()
        await running.put("second")
        assert [one.delivery_id for one in running.disk.batches[0]] == ["second"]
    assert "took too long" in caplog.text


async def test_what_is_under_way_has_an_end_in_number_and_in_bytes() -> None:
    async with Running(Capacity(at_once=3, bytes=1000)) as running:
        with running.intake.admitted(), running.intake.admitted():
            with running.intake.admitted(), pytest.raises(TooBusyError), running.intake.admitted():
                raise AssertionError
            assert not running.intake.is_busy
            with running.intake.holding(1000):
                assert running.intake.is_busy
            assert not running.intake.is_busy


async def test_w1_while_the_event_loop_is_slow_only_few_are_let_in() -> None:
    async with Running(Capacity(given_up=0.3, few=1, patience=10)) as running:
        running.disk.may.clear()
        task = running.put("first")
        await _begun(running)
        seen = []
        for _ in range(3):
            time.sleep(0.2)  # noqa: ASYNC251 - it is meant to hold the loop up
            await asyncio.sleep(0.001)
            with contextlib.suppress(TooBusyError), running.intake.admitted():
                seen.append(running.intake.is_busy)
        assert seen == [False, True, True], "a single hiccup refuses nobody"
        assert not running.intake.is_busy, "one is few"
        running.disk.may.set()
        await task


async def test_w1_an_answer_that_nobody_hears_any_more_is_no_success() -> None:
    async with Running(Capacity(given_up=0.05)) as running:
        running.disk.may.clear()
        asyncio.get_running_loop().call_later(0.1, running.disk.may.set)
        with pytest.raises(TooBusyError), running.intake.admitted():
            await running.put("late")
        assert [one.delivery_id for one in running.disk.batches[0]] == ["late"], "it is kept all the same"


async def test_w1_an_outage_is_no_success_and_over_when_it_is_over() -> None:
    async with Running() as running:
        running.disk.error = DatabaseUnavailableError("The database canary does not answer.")
        with pytest.raises(TooBusyError):
            await running.put("first")
        running.disk.error = None
        await running.put("second")
        assert [one.delivery_id for batch in running.disk.batches for one in batch] == ["second"]


async def test_w1_one_that_cannot_be_written_is_kept_unread_and_takes_no_other_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Running() as running:
        running.disk.poison = {"bad"}
        running.disk.may.clear()
        tasks = [running.put("first")]
        await _begun(running)
        tasks += [running.put(name) for name in ("good", "bad", "better")]
        await asyncio.sleep(0.01)
        running.disk.may.set()
        await asyncio.gather(*tasks)
        written = {one.delivery_id: one for batch in running.disk.batches for one in batch}
        assert set(written) == {"first", "good", "bad", "better"}
        assert (written["bad"].events, written["bad"].body) == ((), b"leads%5Badd%5D")
        assert "ValueError" in (written["bad"].reason or "")
        assert len(written["good"].events) == 1
    assert "secret words" not in caplog.text


async def test_w1_what_the_store_refuses_is_kept_unread_in_the_real_store(db: Database) -> None:
    async def save(deliveries: Sequence[NewDelivery]) -> Sequence[Saved]:
        return await save_deliveries(db, deliveries)

    intake = Intake(save)
    writer = asyncio.create_task(intake.run())
    odd = delivery(change("odd", payload={"number": float("nan")}))
    fine = delivery(change("fine"))
    await asyncio.gather(intake.put([odd]), intake.put([fine]))
    intake.close()
    await writer
    kept, good = await get_delivery(db, odd.delivery_id), await get_delivery(db, fine.delivery_id)
    assert kept is not None
    assert good is not None
    assert (kept.state, kept.body, kept.event_count) == ("unreadable", odd.body, 0)
    assert (good.state, good.event_count) == ("stored", 1)


async def test_w1_a_stop_writes_what_was_taken_on_and_takes_no_more() -> None:
    running = Running(FULL_BATCH)
    async with running:
        running.disk.may.clear()
        tasks = [running.put(f"n{number}") for number in range(25)]
        await _begun(running)
        running.intake.close()
        with pytest.raises(TooBusyError):
            await running.put("late")
        running.disk.may.set()
    await asyncio.gather(*tasks)
    assert sum(len(batch) for batch in running.disk.batches) == 25


async def test_w1_a_request_that_is_cancelled_takes_nothing_from_the_others() -> None:
    async with Running() as running:
        running.disk.may.clear()
        first = running.put("first")
        await _begun(running)
        gone, stays = running.put("gone"), running.put("stays")
        await asyncio.sleep(0.01)
        gone.cancel()
        first.cancel()
        await asyncio.sleep(0)
        running.disk.may.set()
        await stays
        assert [one.delivery_id for batch in running.disk.batches for one in batch] == ["first", "stays"]


async def test_the_counts_are_told_from_time_to_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "gateway.intake")
    monkeypatch.setattr("gateway.intake._TOLD_EVERY", 0.05)
    async with Running() as running:
        await asyncio.gather(running.put("a"), running.put("b"))
        running.intake.refuse()
        await _until(lambda: "taken in" in caplog.text)
    assert "2 deliveries taken in (0 with repetitions), 1 refused" in caplog.text


async def test_w1_the_door_says_503_at_once_while_the_database_hangs(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    assert (await hooks.send(form(1))).status_code == 200
    may = threading.Event()
    real = save_deliveries

    async def hang(db: Database, deliveries: Sequence[NewDelivery]) -> list[Saved]:
        while not may.is_set():  # noqa: ASYNC110 - it is set in another thread
            await asyncio.sleep(0.01)
        return await real(db, deliveries)

    monkeypatch.setattr("gateway.writer.save_deliveries", hang)
    began = loop.time()
    first = asyncio.create_task(hooks.send(form(2)))
    await asyncio.sleep(1.1)
    asked = loop.time()
    answer = await hooks.send(form(3))
    assert loop.time() - asked < 0.5
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    waited = await first
    assert waited.status_code == 503
    assert int(waited.headers["retry-after"]) > 0
    assert waited.json()["detail"].endswith("Try again in a little while.")
    assert loop.time() - began < 2.0, "Kommo waits for two seconds"
    may.set()
    await _until(lambda: not hooks.services.webhooks.intake.is_busy)
    for lead in (2, 3):
        assert (await hooks.send(form(lead))).status_code == 200
    assert (await hooks.states())["pending"] == 3, "what was sent away came again, and is there once"


async def test_w1_a_key_that_cannot_be_looked_up_is_503_and_not_404(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async def away(*_: object) -> None:
        raise DatabaseUnavailableError("The database at canary-host does not answer.")

    monkeypatch.setattr(hooks.services.webhooks.keys, "_patience", 0.05)
    for how in (hang, away):
        monkeypatch.setattr("gateway.webhooks.find_key", how)
        answer = await hooks.send(form(1))
        assert answer.status_code == 503, how
        assert answer.headers["retry-after"]
        assert "canary" not in answer.text
        await hooks.services.webhooks.keys.close()
    assert await hooks.deliveries() == []


async def test_a_flood_of_unknown_keys_asks_the_database_for_few_at_once(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def hang(*_: object) -> None:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()

    monkeypatch.setattr(hooks.services.webhooks.keys, "_patience", 0.3)
    monkeypatch.setattr("gateway.webhooks.find_key", hang)
    answers = await asyncio.gather(*(hooks.send(form(1), f"{number:040}") for number in range(90)))
    assert {answer.status_code for answer in answers} == {503}
    assert asked == 64


async def test_a_body_that_does_not_come_is_not_waited_for(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.webhooks.BODY_SECONDS", 0.1)
    path = f"/api/webhooks/kommo/{hooks.key}"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n".encode()
    reader, writer = await hooks.raw(head + b"a")
    async with asyncio.timeout(5):
        assert b" 408 " in await reader.readline()
    writer.close()
    assert await hooks.deliveries() == []
