"""What the tests of the sandbox's OAuth share: token requests, consents, and a server that writes down who calls it."""

import asyncio
from typing import Any

import httpx

from tests.sandbox.support import Api

Json = dict[str, Any]


async def token(api: Api, account: str = "acme", form: bool = False, /, **fields: str) -> httpx.Response:
    known = api.sandbox.world.integration
    body = {
        "client_id": known.client_id,
        "client_secret": known.client_secret,
        "redirect_uri": known.redirect_uri,
    }
    body |= {"grant_type": "refresh_token" if "refresh_token" in fields else "authorization_code"} | fields
    url, headers = (
        f"{api.sandbox.url}/oauth2/access_token",
        {"Host": f"{account}.localhost:{api.sandbox.port}"},
    )
    if form:
        return await api.http.post(url, headers=headers, data=body)
    return await api.http.post(url, headers=headers, json=body)


async def code(api: Api, account: str = "acme") -> str:
    return str((await api.control("POST", "authorize", {"account": account}))["code"])


async def pair(api: Api) -> Json:
    answer = await token(api, code=await code(api))
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def hint(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    return answer.status_code, answer.json()["hint"]


async def consent(api: Api, **query: str) -> httpx.Response:
    headers = {"Host": f"www.localhost:{api.sandbox.port}"}
    asked = {"client_id": api.sandbox.world.integration.client_id} | query
    return await api.http.get(f"{api.sandbox.url}/oauth", params=asked, headers=headers)


class Listener:
    """The smallest server that writes down what it was asked."""

    def __init__(self) -> None:
        self.heads: list[str] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()
