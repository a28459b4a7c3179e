"""Form bodies: nothing that goes in is lost, whatever its shape, and hostile ones cost no more than they are long."""

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kommo.webhooks import BodyTooLargeError, Limits, UnreadableBodyError, parse
from kommo.webhooks.forms import nested
from tests.turns import measured
from tests.webhooks.encoding import encode

WIDE = Limits(bytes=1 << 30, fields=10_000_000)


def read(text: str) -> dict[str, Any]:
    return nested(text.encode(), Limits())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a=1", {"a": "1"}),
        ("leads[add][0][id]=1&leads[add][0][name]=x", {"leads": {"add": [{"id": "1", "name": "x"}]}}),
        ("a%5Bb%5D=1", {"a": {"b": "1"}}),
        ("a%5bb%5d=1", {"a": {"b": "1"}}),
        ("values[0]=1729717200", {"values": ["1729717200"]}),
        ("values[value]=2&values[enum]=5", {"values": {"value": "2", "enum": "5"}}),
        ("linked[15319601][ID]=15319601", {"linked": {"15319601": {"ID": "15319601"}}}),
        ("linked[1][ID]=1", {"linked": {"1": {"ID": "1"}}}),
        ("l[1]=b&l[0]=a&l[2]=c", {"l": ["a", "b", "c"]}),
        ("l[0]=a&l[2]=c", {"l": {"0": "a", "2": "c"}}),
        ("l[00]=a", {"l": {"00": "a"}}),
        ("l[]=a&l[]=b", {"l": ["a", "b"]}),
        ("l[][x]=a&l[][x]=b", {"l": [{"x": "a"}, {"x": "b"}]}),
        ("l[1]=b&l[]=c", {"l": {"1": "b", "2": "c"}}),
        ("type=3&type[uuid]=x", {"type": {"": "3", "uuid": "x"}}),
        ("type[uuid]=x&type=3", {"type": {"uuid": "x", "": "3"}}),
        ("type[uuid]=x&type=3&type=4", {"type": {"uuid": "x", "": ["3", "4"]}}),
        ("n[t]=3&n[t][u][v]=x", {"n": {"t": {"": "3", "u": {"v": "x"}}}}),
        ("t=1&t[]=2", {"t": {"": "1", "0": "2"}}),
        ("a=1&a=2&a=3", {"a": ["1", "2", "3"]}),
        ("a=1&&a=", {"a": ["1", ""]}),
        ("a", {"a": ""}),
        ("=1", {"": "1"}),
        ("a=b=c", {"a": "b=c"}),
        ("a[b=1", {"a[b": "1"}),
        ("a]b=1", {"a]b": "1"}),
        ("a[b]c=1", {"a[b]c": "1"}),
        ("[0]=1", {"": ["1"]}),
        ("a=x+y%2Bz%26%3D%25", {"a": "x y+z&=%"}),
        ("a=%5B%5D%255B", {"a": "[]%5B"}),
        ("a+b%26=1", {"a b&": "1"}),
        ("a=%D0%90&b=\u0410", {"a": "\u0410", "b": "\u0410"}),
        ("a=%FF&b=%D0", {"a": "\ufffd", "b": "\ufffd"}),
        ("a=%ZZ%", {"a": "%ZZ%"}),
        ("a=%00", {"a": "\0"}),
        ('a={"b":[1]}', {"a": '{"b":[1]}'}),
        ("note[attachement]=", {"note": {"attachement": ""}}),
    ],
)  # fmt: skip
def test_each_shape_of_a_form(text: str, wanted: dict[str, Any]) -> None:
    assert read(text) == wanted


def test_brackets_that_are_not_encoded_mean_the_same() -> None:
    data = {"leads": {"add": [{"id": "1", "custom_fields": [{"id": "2", "values": ["1615845600"]}]}]}}
    body = encode(data)
    plain = body.replace(b"%5B", b"[").replace(b"%5D", b"]")
    assert nested(plain, Limits()) == nested(body, Limits()) == data


_KEYS = st.text(
    st.characters(exclude_characters="[]", exclude_categories=["Cs"]), min_size=1, max_size=6
).filter(lambda key: not (key.isascii() and key.isdecimal()))
_LEAVES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.dictionaries(_KEYS, inner, min_size=1, max_size=4)
        | st.lists(inner, min_size=1, max_size=4)
        | st.dictionaries(st.integers(min_value=5, max_value=10**12).map(str), inner, min_size=1, max_size=3)
    ),
    max_leaves=25,
)


@given(st.dictionaries(_KEYS, _TREES, min_size=1, max_size=5))
@settings(deadline=None, max_examples=150)
def test_any_nested_data_survives_encoding_and_reading(data: dict[str, Any]) -> None:
    assert nested(encode(data), Limits(depth=64)) == data


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=150)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        delivery = parse(body, None)
    except UnreadableBodyError:
        return
    assert delivery.events or delivery.rest


@given(st.lists(st.text("a[]=&%50", max_size=12), max_size=12).map("&".join))
@settings(deadline=None, max_examples=150)
def test_any_play_with_brackets_keeps_every_value(text: str) -> None:
    def count(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 1 if inner is None else sum(map(count, inner))

    try:
        found = read(text)
    except UnreadableBodyError:
        return
    assert count(found) == sum(1 for pair in text.split("&") if pair)


def test_a_body_of_ten_megabytes_is_refused_before_it_is_looked_at() -> None:
    body = b"a=" + b"x" * (10 << 20)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(BodyTooLargeError, match="10485762 bytes"):
        parse(body, "application/x-www-form-urlencoded")
    with pytest.raises(BodyTooLargeError):
        parse(b"{" * (10 << 20), "application/json")
    assert time.process_time() - started < 0.1
    assert tracemalloc.get_traced_memory()[1] < 15 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [
        b"&".join(b"a[%d]=1" % n for n in range(100_000)),
        b"&".join(b"a=%d" % n for n in range(100_000)),
        b"&" * 100_000,
        b"a[]=&" * 100_000,
    ],
    ids=["indexes", "repeated", "empty", "appended"],
)
def test_a_body_of_a_hundred_thousand_fields_is_refused_before_it_is_split(body: bytes) -> None:
    started = time.process_time()
    with pytest.raises(UnreadableBodyError, match="more than 20000 fields"):
        parse(body, "application/x-www-form-urlencoded", limits=Limits(bytes=1 << 24))
    assert time.process_time() - started < 0.1


def test_too_many_levels_or_groups_are_refused() -> None:
    deep = "a" + "[b]" * 15
    assert read(f"{deep}=1")
    with pytest.raises(UnreadableBodyError, match="16 levels"):
        read(f"{deep}[c]=1")
    with pytest.raises(UnreadableBodyError, match="16 levels"):
        read("[" * 500_000 + "]=1")
    many = "&".join(f"a{n}[b][c][d][e][f]=1" for n in range(5_000))
    with pytest.raises(UnreadableBodyError, match="groups"):
        read(many)


def _numbers_then_appended(fields: int) -> str:
    half = fields // 2
    return "&".join([*(f"a[{half + n}]=1" for n in range(half)), "a[]=1&" * half])


SHAPES: dict[str, Callable[[int], str]] = {
    "far indexes": lambda n: "&".join(f"a[{10**17 + k}]=1" for k in range(n)),
    "append after numbers": _numbers_then_appended,
    "appended groups": lambda n: "a[][b]=1&" * n,
    "repeated": lambda n: "a=1&" * n,
    "value and group": lambda n: "a=1&a[b]=2&" * (n // 2),
    "escapes": lambda n: "%61%5B%62%5D=%41%42&" * n,
    "lists of lists": lambda n: "&".join(f"a[{k}][0][0]=1" for k in range(n)),
    "one value": lambda n: "a=" + quote("\u0410" * n * 4),
    "one name": lambda n: "a" * n * 20 + "=1",
    "open brackets": lambda n: "&".join("[" * 10 + str(k) for k in range(n)),
}


@pytest.mark.timing
@pytest.mark.parametrize("shape", SHAPES)
def test_time_grows_with_the_length_only(shape: str) -> None:
    def seconds(fields: int) -> float:
        body = SHAPES[shape](fields).encode()
        times = []
        gc.disable()  # it would look through everything that the other tests have left
        try:
            for _ in range(5):
                started = time.process_time()
                nested(body, WIDE)
                times.append(time.process_time() - started)
        finally:
            gc.enable()
        return min(times)

    # Eight times the length: about eight times the time; quadratic work would take sixty-four times.
    with measured():
        assert seconds(16_000) < 32 * max(seconds(2_000), 0.0002)
