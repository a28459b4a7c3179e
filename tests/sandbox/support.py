"""A client that speaks to the sandbox as any client would: over HTTP, with Host and Bearer headers."""

import ssl
from typing import Any

import httpx

from sandbox import LimitSettings, Sandbox, SandboxConfig

NO_TLS = ssl.SSLContext(
    ssl.PROTOCOL_TLS_CLIENT
)  # loading the system's certificates for every test takes longer than most tests
UNTHROTTLED = LimitSettings(per_ip=0, per_account=0)
SMALL = SandboxConfig(limits=UNTHROTTLED, accounts=3, leads=30, contacts=12, companies=6, talks=14)


class Api:
    """A thin client; every call names the account's subdomain."""

    def __init__(self, sandbox: Sandbox, http: httpx.AsyncClient) -> None:
        self.sandbox = sandbox
        self.http = http

    def token(self, account: str = "acme", *, admin: bool = True) -> str:
        known = next(entry for entry in self.sandbox.accounts if entry.subdomain == account)
        return known.admin_token if admin else known.plain_token

    async def send(
        self,
        method: str,
        path: str,
        *,
        account: str = "acme",
        host: str | None = None,
        token: str | None = None,
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        sent = {"Host": f"{host or account}.localhost:{self.sandbox.port}"}
        sent["Authorization"] = f"Bearer {token or self.token(account)}"
        url = f"{self.sandbox.url}{path if path.startswith('/') else '/api/v4/' + path}"
        return await self.http.request(method, url, headers=sent | (headers or {}), json=body)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.send("GET", path, **more)

    async def post(self, path: str, body: object, **more: Any) -> httpx.Response:
        return await self.send("POST", path, body=body, **more)

    async def patch(self, path: str, body: object, **more: Any) -> httpx.Response:
        return await self.send("PATCH", path, body=body, **more)

    async def control(self, method: str, name: str, body: object = None) -> Any:
        answer = await self.http.request(method, f"{self.sandbox.url}/_sandbox/{name}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def read_all(self, path: str, key: str, limit: int = 250, **more: Any) -> list[dict[str, Any]]:
        """Follow `next` by path and query, as the fact sheet advises."""
        found: list[dict[str, Any]] = []
        place = f"/api/v4/{path}{'&' if '?' in path else '?'}limit={limit}"
        while True:
            answer = await self.get(place, **more)
            if answer.status_code == 204:
                return found
            assert answer.status_code == 200, answer.text
            found += answer.json()["_embedded"][key]
            following = answer.json()["_links"].get("next")
            if following is None:
                return found
            place = httpx.URL(following["href"]).raw_path.decode()
