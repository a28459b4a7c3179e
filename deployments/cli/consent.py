"""Kommo's consent page in the person's browser, and the way back to this process on loopback.

For `kommo connect ORG --browser`. Facts: kommo-api.md §1.2 (the page), §1.3 (what comes back).
"""

from __future__ import annotations

import asyncio
import hmac
import html
import secrets
import webbrowser
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from deployments.cli.output import say
from deployments.cli.run import WrongUseError
from kommo.auth import OAuthApp, authorize_url
from kommo.hosts import Host, parse_host

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_WAIT_SECONDS = 600.0
_LONGEST_HEAD = 16 * 1024

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>:root{{color-scheme:light dark}}body{{font:1.1rem/1.5 system-ui;max-width:34rem;margin:18vh auto}}</style>
<h1>{title}</h1><p>{text}</p></html>"""


class ConsentError(WrongUseError):
    """Consent was not given, or what came back is not an answer to our question."""


@dataclass(frozen=True)
class Consent:
    """What the consent page sent back."""

    host: Host
    code: SecretStr


async def ask_for_consent(app: OAuthApp, *, allow_loopback: bool, open_browser: bool = True) -> Consent:
    """Open the consent page and wait until the browser comes back with a code.

    Args:
        app: the integration; its redirect URI must lead to this machine.
        allow_loopback: accept the sandbox's accounts.
        open_browser: open it; the address is printed in any case.

    Raises:
        ConsentError: the redirect URI is elsewhere, consent was declined, or nothing came in ten minutes.
    """
    target = urlsplit(app.redirect_uri)
    if target.scheme != "http" or target.hostname not in _LOOPBACK:
        raise ConsentError(
            f"The integration sends people back to {target.scheme}://{target.netloc}, not to this machine. Run "
            "`kommo gateway` there, or copy the code from that page's address and use --code."
        )
    state = secrets.token_urlsafe(24)
    answered: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            asked = urlsplit(head.split(b" ", 2)[1].decode("latin-1"))
            query = {name: values[0] for name, values in parse_qs(asked.query).items()}
            ours = asked.path == target.path and hmac.compare_digest(
                query.get("state", "").encode(), state.encode()
            )
            if ours and not answered.done():
                answered.set_result(query)
            writer.write(_page(ours=ours, declined="error" in query))
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, IndexError, OSError):
            pass
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(serve, target.hostname, target.port or 80, limit=_LONGEST_HEAD)
    except OSError as error:
        raise ConsentError(
            f"{target.netloc} cannot be listened on ({error.strerror}): something else may run there."
        ) from None
    url = authorize_url(app, state)
    async with server:
        say(f"Open this page and allow access: {url}")
        if open_browser:
            await asyncio.to_thread(webbrowser.open, url)
        try:
            query = await asyncio.wait_for(answered, _WAIT_SECONDS)
        except TimeoutError:
            raise ConsentError("Nobody came back from the consent page within ten minutes.") from None
    if "code" not in query or "referer" not in query:
        raise ConsentError("Access was declined on the consent page. Nothing was connected.")
    return Consent(parse_host(query["referer"], allow_loopback=allow_loopback), SecretStr(query["code"]))


def _page(*, ours: bool, declined: bool) -> bytes:
    if not ours:
        title, text = "This page is not meant for you", "It does not answer a question that was asked here."
    elif declined:
        title, text = "Access was declined", "Nothing was connected. You can close this page."
    else:
        title, text = "Thank you", "The terminal goes on from here. You can close this page."
    body = _PAGE.format(title=html.escape(title), text=html.escape(text)).encode()
    head = (
        f"HTTP/1.1 {200 if ours else 400} {'OK' if ours else 'Bad Request'}\r\n"
        "Content-Type: text/html; charset=utf-8\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-store\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
