"""S1: a group of a sync that hangs ends, is noted as failed, and says which one it was."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from kommo.clock import SystemClock
from tasks import snapshots
from tasks.scopes import Group
from tasks.snapshots import GroupTookTooLongError, save_group


@pytest.mark.parametrize("where", ["read_group", "save_snapshot"])
async def test_s1_a_group_that_hangs_ends_and_is_noted_as_failed(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    noted: list[str] = []

    async def hang(*_arguments: Any, **_named: Any) -> None:
        await asyncio.Event().wait()

    async def read(*_arguments: Any) -> dict[str, Any]:
        return {}

    async def note(*_arguments: Any, reason: str, **_named: Any) -> None:
        noted.append(reason)

    monkeypatch.setattr(snapshots, "read_group", read)
    monkeypatch.setattr(snapshots, where, hang)
    monkeypatch.setattr(snapshots, "fail_snapshot", note)
    monkeypatch.setattr(snapshots, "LONGEST", 0.05)
    session: Any = SimpleNamespace(database=None, run_id="one", org="acme", clock=SystemClock())
    with pytest.raises(GroupTookTooLongError, match="channels"):
        await save_group(session, Group.CHANNELS)
    assert "were not read and saved within" in noted[0]


async def test_a_timeout_of_something_inside_is_not_taken_for_that_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def impatient(*_arguments: Any) -> None:
        raise TimeoutError("the driver's own")

    async def note(*_arguments: Any, **_named: Any) -> None: ...

    monkeypatch.setattr(snapshots, "read_group", impatient)
    monkeypatch.setattr(snapshots, "fail_snapshot", note)
    session: Any = SimpleNamespace(database=None, run_id="one", org="acme", clock=SystemClock())
    with pytest.raises(TimeoutError, match="the driver's own"):
        await save_group(session, Group.CHANNELS)
