"""Filters and orders of the stand-in's lists, beside their plain definitions: they are written for 100 000 records."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sandbox.query import matcher, ordered

_WHEN = st.none() | st.integers(0, 5)
_RECORDS = st.lists(_WHEN, max_size=12).map(
    lambda moments: [{"id": number, "at": at} for number, at in enumerate(moments, 1)]
)


@given(
    records=_RECORDS, key=st.sampled_from(["id", "at"]), direction=st.sampled_from(["asc", "desc", "DESC"])
)
def test_a_list_is_in_the_order_of_its_key_then_of_its_ids_and_what_has_none_comes_first(
    records: list[dict[str, Any]], key: str, direction: str
) -> None:
    plain = sorted(records, key=lambda record: (record[key] is not None, record[key] or 0, record["id"]))
    if direction.lower() == "desc":
        plain.reverse()
    assert ordered(records[::-1], {key: direction}, ("id", "at")) == plain


@given(at=_WHEN, start=st.none() | st.integers(-1, 6), end=st.none() | st.integers(-1, 6))
def test_a_range_takes_its_ends_in_and_leaves_out_what_has_no_value(
    at: int | None, start: int | None, end: int | None
) -> None:
    wanted = {name: str(value) for name, value in (("from", start), ("to", end)) if value is not None}
    inside = at is not None and (start is None or at >= start) and (end is None or at <= end)
    assert matcher("at", "range", wanted)({"at": at}) is inside
