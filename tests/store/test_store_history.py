"""S3 against a plain model: random sequences of saves, then any time can be read and any two compared."""

import asyncio
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from store.database import Database
from store.drift import changes_of_run, diff
from store.errors import NoSnapshotError
from store.kinds import KINDS
from store.snapshots import Saved, read_snapshot
from tests.store.builders import minutes, pipeline, save, status

Picture = tuple[dict[int, str], dict[tuple[int, int], str]]

_NAMES = st.sampled_from(["a", "b", "ü\x00", "\ud83d"])
_PICTURES = st.tuples(
    st.dictionaries(st.integers(1, 3), _NAMES, max_size=3),
    st.dictionaries(st.tuples(st.integers(1, 3), st.sampled_from([11, 12, 142])), _NAMES, max_size=6),
)


def _clean(name: str) -> str:
    return name.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")


def _parts(old: Picture, new: Picture) -> list[tuple[dict[Any, str], dict[Any, str], str]]:
    return [(old[0], new[0], "pipelines"), (old[1], new[1], "statuses")]


class History(RuleBasedStateMachine):
    """The store beside a list of (time, run, picture)."""

    runner: asyncio.Runner
    place: tuple[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.org = uuid.uuid4().hex  # each history in an org of its own
        self.clock = 0.0
        self.read_at = 0.0
        self.model: list[tuple[datetime, str, Picture]] = []
        self.stack = Database.open(*self.place)
        self.db = self.runner.run(self.stack.__aenter__())

    def teardown(self) -> None:
        self.runner.run(self.stack.__aexit__(None, None, None))

    def _at(self, moment: datetime) -> Picture:
        return next((picture for taken, _, picture in reversed(self.model) if taken <= moment), ({}, {}))

    @rule(picture=_PICTURES, passed=st.integers(0, 3))
    def save(self, picture: Picture, passed: int) -> None:
        self.clock += passed
        self.read_at = self.clock
        before = self._at(minutes(1e6))
        rows = {
            "pipelines": [pipeline(number, name) for number, name in picture[0].items()],
            "statuses": [status(*numbers, name) for numbers, name in picture[1].items()],
        }
        run_id, saved = self.runner.run(save(self.db, self.clock, rows, org=self.org))
        for old, new, name in _parts(before, picture):
            assert saved[name] == Saved(
                len(new),
                added=len(new.keys() - old.keys()),
                changed=sum(old[key] != new[key] for key in old.keys() & new.keys()),
                removed=len(old.keys() - new.keys()),
            )
        taken_at = self.runner.run(read_snapshot(self.db, self.org, "pipelines")).taken_at
        assert not self.model or taken_at > self.model[-1][0]
        self.model.append((taken_at, run_id, picture))

    @precondition(lambda self: self.model)
    @rule(picture=_PICTURES)
    def save_a_superseded_read(self, picture: Picture) -> None:
        rows = {"pipelines": [pipeline(number, name) for number, name in picture[0].items()]}
        _, saved = self.runner.run(save(self.db, self.clock, rows, org=self.org, read_at=self.read_at - 1))
        assert saved["pipelines"].superseded

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def read_any_time(self, data: st.DataObject) -> None:
        moment = data.draw(st.sampled_from([taken for taken, _, _ in self.model])) + data.draw(
            st.sampled_from([timedelta(0), timedelta(microseconds=-1), timedelta(seconds=30)])
        )
        if moment < self.model[0][0]:
            with pytest.raises(NoSnapshotError):
                self.runner.run(read_snapshot(self.db, self.org, "pipelines", at=moment))
            return
        pipelines, statuses = self._at(moment)
        view = self.runner.run(read_snapshot(self.db, self.org, "pipelines", at=moment))
        assert {entry["id"]: entry["name"] for entry in view.items} == {
            n: _clean(v) for n, v in pipelines.items()
        }
        assert {(entry["id"], s["id"]): s["name"] for entry in view.items for s in entry["statuses"]} == {
            key: _clean(name) for key, name in statuses.items() if key[0] in pipelines
        }

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def compare_any_two(self, data: st.DataObject) -> None:
        runs = st.sampled_from(self.model)
        (_, from_run, old), (_, to_run, new) = data.draw(runs), data.draw(runs)
        drift = self.runner.run(diff(self.db, self.org, from_run, to_run))
        self._check({change.key for change in drift.changes}, len(drift.changes), old, new)

    @precondition(lambda self: len(self.model) > 1)
    @rule()
    def compare_the_last_two(self) -> None:
        (_, _, old), (_, run_id, new) = self.model[-2:]
        drift = self.runner.run(changes_of_run(self.db, run_id))
        self._check({change.key for change in drift.changes}, len(drift.changes), old, new)

    def _check(self, keys: set[str], number: int, old: Picture, new: Picture) -> None:
        """Each difference of the two pictures is told once; a move is one change for two keys."""
        expected = set()
        for before, after, kind in _parts(old, new):
            for key in before.keys() | after.keys():
                if before.get(key) != after.get(key):
                    values = (key,) if isinstance(key, int) else key
                    expected.add(KINDS[kind].key(dict(zip(KINDS[kind].key_columns, values, strict=True))))
        assert keys <= expected
        assert number == len(keys)
        moved = len(expected) - number
        assert 0 <= moved <= 4
        if not moved:
            assert keys == expected

    @invariant()
    def now_is_the_last_picture(self) -> None:
        if self.model:
            view = self.runner.run(read_snapshot(self.db, self.org, "statuses"))
            assert {(s["pipeline_id"], s["id"]): s["name"] for s in view.items} == {
                key: _clean(name) for key, name in self.model[-1][2][1].items()
            }


def test_s3_any_history_of_saves_can_be_read_at_any_time_and_compared(
    migrated_place: tuple[str, str],
) -> None:
    with asyncio.Runner() as runner:

        class Here(History):
            place = migrated_place

        Here.runner = runner
        run_state_machine_as_test(
            Here,
            settings=settings(
                max_examples=8,
                stateful_step_count=10,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                phases=[Phase.generate],  # shrinking a history takes minutes; a failing one is short enough
            ),
        )
