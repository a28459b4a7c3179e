"""A pair of tokens: put away and taken out again unchanged, and shown to nobody (T2, T5)."""

import hashlib
import json
import traceback
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from kommo.auth import TokenPair, fingerprint

MOMENTS = st.datetimes(
    min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29),  # noqa: DTZ001  hypothesis adds the zone
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))]),
)  # fmt: skip
TEXTS = st.text(st.characters(codec=None), max_size=60)
PAIRS = st.builds(
    TokenPair,
    access_token=TEXTS.map(SecretStr),
    refresh_token=TEXTS.map(SecretStr),
    expires_at=MOMENTS,
    received_at=MOMENTS,
    used=TEXTS,
    account_id=st.none() | st.integers(1, 2**63 - 1),
    scopes=st.lists(TEXTS, max_size=4).map(tuple),
    api_domain=st.none() | TEXTS,
    issued_at=st.none() | MOMENTS,
    server_skew=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
PAIR = TokenPair(
    access_token=SecretStr("canary-access"),
    refresh_token=SecretStr("canary-refresh"),
    expires_at=datetime(2026, 11, 2, tzinfo=UTC),
    received_at=datetime(2026, 11, 1, tzinfo=UTC),
    used="code:0",
)


@given(PAIRS)
def test_t2_a_pair_comes_back_as_it_was_put_away(pair: TokenPair) -> None:
    text = pair.to_json()
    back = TokenPair.from_json(text)
    assert back == pair
    assert back.fingerprint == pair.fingerprint
    assert back.to_json() == text
    assert {back.expires_at.tzinfo, back.received_at.tzinfo} == {UTC}


def test_t2_what_a_later_version_adds_is_skipped_and_what_it_leaves_out_is_none() -> None:
    kept = json.loads(PAIR.to_json()) | {"invented_later": {"x": 1}}
    for name in ("account_id", "scopes", "api_domain", "issued_at", "server_skew"):
        del kept[name]
    assert TokenPair.from_json(json.dumps(kept)) == PAIR


NAIVE = "2026-11-01T00:00:00"
WRONG: dict[str, list[object]] = {
    "access_token": [..., None, 1, [], {}],
    "refresh_token": [..., None, True, ["x"]],
    "expires_at": [..., None, NAIVE, "x", [], 1e300],
    "received_at": [..., None, NAIVE, {}],
    "used": [..., None, 1, []],
    "account_id": ["x", 1.5, {}],
    "scopes": ["x", [1], {"x": 1}],
    "issued_at": [NAIVE, "x"],
    "server_skew": ["x", float("nan"), float("inf")],
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=str)
def test_t5_what_is_no_pair_is_refused_without_repeating_it(name: str, value: object) -> None:
    kept = json.loads(PAIR.to_json()) | {name: value}
    text = json.dumps({key: value for key, value in kept.items() if value is not ...})
    with pytest.raises(ValueError, match="not a pair of tokens") as caught:
        TokenPair.from_json(text)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    deep = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown += "".join(str(frame.locals) for frame in deep.stack if "/kommo/" in frame.filename)
    assert "canary" not in shown
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "7", "[" * 100_000, '{"access_token":"canary"}', "\ud800"]
)
def test_t5_garbage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a pair of tokens") as caught:
        TokenPair.from_json(text)
    assert "canary" not in repr(caught.value)


def test_t5_a_pair_shows_no_token() -> None:
    looks = f"{PAIR} {PAIR!r} {[PAIR]}"
    assert "canary" not in looks
    assert "code:0" in looks


def test_a_fingerprint_is_the_sha_256_of_the_token() -> None:
    assert (
        fingerprint(SecretStr("abc"))
        == hashlib.sha256(b"abc").hexdigest()
        == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    )
    assert PAIR.fingerprint == fingerprint(SecretStr("canary-refresh"))
    assert len(fingerprint(SecretStr("\ud800é"))) == 64
