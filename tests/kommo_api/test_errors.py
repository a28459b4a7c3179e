"""Every answer that is not a success becomes a sentence that says whose fault it is and what to do."""

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kommo.answers import LONGEST_QUIET, SHORTEST_QUIET, asked_to_wait, data_from_body, error_from_answer
from kommo.errors import FACTS, ErrorKind, KommoError, Problem, Then

SAMPLES = Path(__file__).parent.parent / "samples"
MANIFEST = json.loads((SAMPLES / "manifest.json").read_text())["samples"]
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def error_of(status: int, body: bytes = b"") -> KommoError:
    return error_from_answer(status, body, method="GET", path="/api/v4/leads", host="acme.kommo.com")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (302, b"", ErrorKind.REDIRECTED),
        (400, b'{"detail":"Request data can not be empty"}', ErrorKind.VALIDATION),
        (400, b'{"hint":"Invalid account"}', ErrorKind.OAUTH_REFUSED),
        (401, b'{"title":"Unauthorized"}', ErrorKind.UNAUTHORIZED),
        (401, b'{"hint":"Token has been revoked"}', ErrorKind.OAUTH_REFUSED),
        (402, b"{}", ErrorKind.PAYMENT_REQUIRED),
        (403, b'{"title":"Forbidden"}', ErrorKind.FORBIDDEN),
        (403, b"<html>403 Forbidden</html>", ErrorKind.IP_BLOCKED),
        (403, b"403 Forbidden", ErrorKind.IP_BLOCKED),
        (403, b"", ErrorKind.IP_BLOCKED),
        (404, b"{}", ErrorKind.NOT_FOUND),
        (405, b"{}", ErrorKind.METHOD_NOT_ALLOWED),
        (408, b"", ErrorKind.TIMEOUT),
        (409, b"", ErrorKind.UNEXPECTED_STATUS),
        (422, b"{}", ErrorKind.LIMIT),
        (429, b"<html>slow down</html>", ErrorKind.RATE_LIMITED),
        (500, b'{"trace_id":"x"}', ErrorKind.SERVER_ERROR),
        (502, b"<html>", ErrorKind.GATEWAY),
        (503, b"", ErrorKind.SERVER_ERROR),
        (504, b"<html>", ErrorKind.GATEWAY),
    ],
)
def test_status_and_body_decide_the_kind(status: int, body: bytes, kind: ErrorKind) -> None:
    error = error_of(status, body)
    assert error.kind is kind
    assert error.status == status
    assert f"status {status}" in str(error)


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_every_kind_has_a_sentence_that_says_what_to_do(kind: ErrorKind) -> None:
    error = KommoError(kind, method="GET", path="/api/v4/leads?query=secret", host="acme.kommo.com")
    assert str(error) == error.sentence
    assert FACTS[kind].advice in str(error)
    assert "secret" not in str(error)
    assert not (error.retryable and error.final)
    assert error.retryable is (FACTS[kind].then is Then.RETRY)


ERRORS = [entry for entry in MANIFEST if entry["kind"] in {"error.api", "error.oauth"}]


@pytest.mark.parametrize("entry", ERRORS, ids=lambda entry: str(entry["file"]))
def test_published_error_bodies_are_understood(entry: dict[str, Any]) -> None:
    body = (SAMPLES / str(entry["file"])).read_bytes()
    told = json.loads(body)
    status = int(told.get("status") or entry["http_status"])
    error = error_of(status, body)
    assert error.kind not in {ErrorKind.UNEXPECTED_STATUS, ErrorKind.IP_BLOCKED}
    assert (error.kind is ErrorKind.OAUTH_REFUSED) is (entry["kind"] == "error.oauth")
    assert error.hint == told.get("hint")
    assert bool(error.problems) is ("validation-errors" in told)
    if "detail" in told:
        assert told["detail"] not in str(error)


COMPLAINT = {"code": "NotSupportedChoice", "path": "custom_fields_values.0.field_id", "detail": "Not valid."}


@pytest.mark.parametrize(
    "body",
    [
        {"validation-errors": [{"request_id": "0", "errors": [COMPLAINT]}]},
        {"validation-errors": {"0": {"request_id": "0", "errors": {"0": COMPLAINT}}}},
        {"validation-errors": {"request_id": "0", "errors": [COMPLAINT]}},
        {"validation-errors": [{"request_id": 0, "errors": COMPLAINT}]},
        {"errors": [{"request_id": "0", "errors": COMPLAINT}]},
        {"validation-errors": [{"request_id": "0", **COMPLAINT}]},
    ],
)
def test_complaints_are_read_from_lists_and_objects_alike(body: object) -> None:
    error = error_of(400, json.dumps(body).encode())
    assert error.problems == (
        Problem("NotSupportedChoice", "custom_fields_values.0.field_id", "Not valid.", "0"),
    )
    assert "NotSupportedChoice at custom_fields_values.0.field_id" in str(error)


json_of_any_kind = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["validation-errors", "errors", "code", "path", "hint", "retry_after", "x"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(status=st.integers(300, 599), told=json_of_any_kind)
def test_no_body_however_odd_breaks_the_reading_of_an_error(status: int, told: object) -> None:
    error = error_of(status, json.dumps(told).encode())
    assert isinstance(pickle.loads(pickle.dumps(error)), KommoError)  # noqa: S301 - our own bytes
    assert asked_to_wait(error, {}, NOW) <= LONGEST_QUIET


@given(st.binary(max_size=40))
def test_no_bytes_break_the_reading_of_a_body(body: bytes) -> None:
    assert error_of(500, body).kind is ErrorKind.SERVER_ERROR
    refused = None
    try:
        assert data_from_body(body) is None or isinstance(data_from_body(body), dict | list)
    except ValueError as error:
        refused = error
    if refused:
        assert str(refused) == "the body is not a whole JSON object or list"
        assert refused.__context__ is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":',
        b"<html>",
        b"17",
        b'"text"',
        b"null",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":NaN}',
        b"1" * 5000,
    ],
)
def test_bodies_that_are_not_whole_json_objects_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a whole JSON"):
        data_from_body(body)


@pytest.mark.parametrize("body", [b"", b"  \r\n"])
def test_an_empty_body_is_no_data(body: bytes) -> None:
    assert data_from_body(body) is None


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        (b'{"retry_after":300}', {}, 300.0),
        (b'{"retry_after":"7"}', {"retry-after": "9"}, 7.0),
        (b"<html>", {"retry-after": "9"}, 9.0),
        (b"<html>", {"retry-after": "Sun, 01 Nov 2026 12:00:30 GMT"}, 30.0),
        (b"<html>", {"retry-after": "Sun, 01 Nov 2026 12:00:30"}, 1.0),
        (b"<html>", {"retry-after": "soon"}, 1.0),
        (b"<html>", {}, 1.0),
        (b'{"retry_after":0}', {}, SHORTEST_QUIET),
        (b'{"retry_after":-5}', {}, 1.0),
        (b'{"retry_after":1e99}', {}, LONGEST_QUIET),
        (b'{"retry_after":NaN}', {}, 1.0),
        (b'{"retry_after":[1]}', {}, 1.0),
    ],
)
def test_r2_a_429_says_how_long_in_its_body_or_header_or_it_is_a_second(
    body: bytes, headers: dict[str, str], seconds: float
) -> None:
    assert asked_to_wait(error_of(429, body), headers, NOW) == seconds


def test_an_error_survives_the_way_to_another_process() -> None:
    error = KommoError(
        ErrorKind.VALIDATION, path="/a", status=400, problems=[Problem("C", "p", "d")], outcome_unknown=True
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
    assert "look it up" in str(copy)
