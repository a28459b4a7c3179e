"""T4: what a failed refresh says about a connection, for every answer that Kommo is known to give (§1.6)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kommo.answers import error_from_answer
from kommo.auth import Verdict, verdict_on_refresh
from kommo.errors import ErrorKind, HostNotAllowed, KommoError

FINAL, MISCONFIGURED = Verdict.FINAL, Verdict.MISCONFIGURED
HINTS = {
    "Authorization code has been revoked": FINAL,
    "Authorization code has expired": FINAL,
    "Cannot decrypt the authorization code": FINAL,
    "Token has been revoked": FINAL,
    "Invalid refresh token": FINAL,
    "Cannot decrypt the refresh token": FINAL,
    "Token has expired": FINAL,
    "Token is not linked to client": FINAL,
    "Invalid account": FINAL,
    "Check the `refresh_token` parameter": FINAL,
    "Check the `client_id` parameter": MISCONFIGURED,
    "Check the `client_secret` parameter": MISCONFIGURED,
    "Check the `redirect_uri` parameter": MISCONFIGURED,
    "Check the `grant_type` parameter": MISCONFIGURED,
    "Redirect URI is not associated with client": MISCONFIGURED,
    " check the client_secret parameter": MISCONFIGURED,
}


def verdict(status: int, body: bytes = b"{}") -> Verdict:
    error = error_from_answer(status, body, method="POST", path="/oauth2/access_token", host="acme.kommo.com")
    return verdict_on_refresh(error)


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("hint", HINTS)
def test_t4_status_and_hint_decide(hint: str, status: int) -> None:
    body = {"hint": hint, "title": "Некорректный запрос", "status": status, "detail": "…"}
    assert verdict(status, json.dumps(body).encode()) is HINTS[hint]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b"{}", Verdict.MAYBE_MOVED),
        (404, b"<html>", Verdict.MAYBE_MOVED),
        (401, b'{"title":"Unauthorized"}', Verdict.MAYBE_MOVED),
        (401, b"", Verdict.MAYBE_MOVED),
        (301, b"", Verdict.MAYBE_MOVED),
        (302, b"<html>", Verdict.MAYBE_MOVED),
        (400, b'{"title":"Bad Request"}', Verdict.TEMPORARY),
        (400, b"<html>", Verdict.TEMPORARY),
        (400, b'{"hint":null}', Verdict.TEMPORARY),
        (402, b"{}", Verdict.TEMPORARY),
        (403, b"<html>403 Forbidden</html>", Verdict.TEMPORARY),
        (403, b'{"hint":"Token has been revoked"}', Verdict.TEMPORARY),
        (405, b"{}", Verdict.TEMPORARY),
        (408, b"", Verdict.TEMPORARY),
        (409, b"", Verdict.TEMPORARY),
        (422, b"{}", Verdict.TEMPORARY),
        (429, b"<html>", Verdict.TEMPORARY),
        (500, b'{"hint":"Token has been revoked"}', Verdict.TEMPORARY),
        (502, b"<html>", Verdict.TEMPORARY),
        (503, b"", Verdict.TEMPORARY),
        (504, b"<html>", Verdict.TEMPORARY),
    ],
)
def test_t4_without_a_hint_the_status_decides(status: int, body: bytes, expected: Verdict) -> None:
    assert verdict(status, body) is expected


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_t4_what_never_had_an_answer_says_nothing_about_a_token(kind: ErrorKind) -> None:
    expected = Verdict.MAYBE_MOVED if kind is ErrorKind.REDIRECTED else Verdict.TEMPORARY
    assert verdict_on_refresh(KommoError(kind, hint="Token has been revoked")) is expected
    assert verdict_on_refresh(HostNotAllowed("it is outside the allowed domains")) is Verdict.TEMPORARY


@given(status=st.integers(300, 599), body=st.binary(max_size=60))
def test_t4_only_a_hint_with_400_or_401_is_final(status: int, body: bytes) -> None:
    if verdict(status, body) is Verdict.FINAL:
        assert status in {400, 401}
        assert isinstance(json.loads(body)["hint"], str)
