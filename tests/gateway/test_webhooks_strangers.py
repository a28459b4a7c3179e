"""Strangers, who bring neither a key nor a signature, do not take the places of those who do (W1)."""

import asyncio

import pytest

from gateway.remembered import LookupBusyError, Remembered
from gateway.webhooks import MOST_STRANGERS
from kommo.clock import SystemClock
from tests.gateway.hooks import DOOR, Hooks, connect, form, signature


async def _crawl(hooks: Hooks, sign: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begin a request at the signed door, and never end it."""
    head = f"POST {DOOR} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n".encode()
    return await hooks.raw(head + b"x-signature: " + sign + b"\r\n\r\n{")


async def test_w1_slow_strangers_at_the_signed_door_do_not_close_kommos_own(
    hooks: Hooks,
) -> None:
    at_once = hooks.services.webhooks.intake._capacity.at_once
    lines = [await _crawl(hooks, b"0" * 64) for _ in range(at_once + 20)]
    try:
        async with asyncio.timeout(5):
            while hooks.services.webhooks.strangers < MOST_STRANGERS:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        assert (await hooks.send(form(1))).status_code == 200
        assert (await hooks.forward(b"{}")).status_code == 503
    finally:
        for _, writer in lines:
            writer.close()
    async with asyncio.timeout(5):
        while hooks.services.webhooks.strangers:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    assert (await hooks.forward(b"{}", signature(b"{}"))).status_code == 200


@pytest.mark.parametrize("sign", [b"", b"abc", b"0" * 65])
async def test_what_cannot_be_a_signature_is_refused_before_the_body_has_come(
    hooks: Hooks, sign: bytes
) -> None:
    reader, writer = await _crawl(hooks, sign)
    async with asyncio.timeout(2):
        assert b" 401 " in await reader.readline()
    writer.close()


async def test_w1_a_known_key_is_looked_up_however_many_strangers_try_keys() -> None:
    wait = asyncio.Event()

    async def look(key: str) -> str | None:
        if key == "known":
            return "acme"
        await wait.wait()
        return None

    clock = _Clock()
    remembered = Remembered(look, clock, patience=0.05)
    assert await remembered.get("known") == "acme"
    strangers = [asyncio.create_task(remembered.get(f"stranger {number}")) for number in range(80)]
    await asyncio.sleep(0)
    clock.later = 6.0
    assert await remembered.get("known") == "acme"
    answers = await asyncio.gather(*strangers, return_exceptions=True)
    assert all(isinstance(one, LookupBusyError) for one in answers)
    wait.set()
    await remembered.close()


async def test_what_is_not_there_does_not_drive_out_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.remembered._MOST", 10)
    looked: list[str] = []

    async def look(key: str) -> str | None:
        looked.append(key)
        return "acme" if key == "known" else None

    remembered = Remembered(look, SystemClock())
    for key in ("known", *map(str, range(50)), "known"):
        await remembered.get(key)
    assert looked.count("known") == 1
    assert len(remembered._known) + len(remembered._absent) <= 20


async def test_w1_what_is_forwarded_right_after_an_account_was_connected_is_its_orgs(hooks: Hooks) -> None:
    body = b'{"account":{"id":31234567},"leads":{"add":[{"id":1}]}}'
    assert (await hooks.forward(body)).status_code == 200
    await connect(hooks, "acme")
    assert (await hooks.forward(body)).status_code == 200
    assert sorted((one.org, one.state) for one in await hooks.deliveries()) == [
        ("", "unreadable"),
        ("acme", "stored"),
    ]


class _Clock(SystemClock):
    later = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.later
