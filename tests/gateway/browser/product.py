"""The product, as small as it can be: who is signed in is in the address; its doors pass on, with its key."""

from html import escape

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

_HOME = """<!doctype html><title>Product</title><h1>Integrations of {org}</h1>
<a id="connect" href="/connect/{org}">Connect Kommo</a>
<button id="popup">Connect in a window</button><pre id="told">nothing yet</pre>
<script>
const told = [];
addEventListener('message', event => {{
  told.push({{origin: event.origin, data: event.data}});
  document.getElementById('told').textContent = JSON.stringify(told);
}});
document.getElementById('popup').onclick = () => {{
  window.other = window.open('/connect/{org}?mode=post_message', 'kommo', 'popup,width=520,height=640');
}};
</script>"""


def product_app(gateway: str, key: str, account_host: str) -> Starlette:
    """The product.

    Args:
        gateway: Address of the gateway.
        key: The product's key.
        account_host: What its users type as their Kommo address.
    """

    async def ask(path: str, org: str, **query: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}", "X-Kommo-Org": org}
        async with httpx.AsyncClient(base_url=gateway) as client:
            return await client.get(path, params=query, headers=headers)

    async def home(request: Request) -> Response:
        return HTMLResponse(_HOME.format(org=escape(request.path_params["org"])))

    async def connect(request: Request) -> Response:
        mode = request.query_params.get("mode", "popup")
        answer = await ask(
            "/api/v1/crm/kommo/oauth", request.path_params["org"], domain=account_host, mode=mode
        )
        passed_on = {
            name: answer.headers[name] for name in ("location", "set-cookie") if name in answer.headers
        }
        return Response(answer.content, answer.status_code, passed_on)

    async def agents(request: Request) -> Response:
        org = request.path_params["org"]
        told = (await ask(f"/api/v1/orgs/{org}/connection", org)).json()
        return HTMLResponse(
            f"<!doctype html><title>Product</title><h1>Agents of {escape(org)}</h1>"
            f"<p id=state>{escape(str(told.get('state')))}</p>"
        )

    return Starlette(
        routes=[
            Route("/home/{org}", home),
            Route("/connect/{org}", connect),
            Route("/manage/{org}/ai-agents", agents),
        ]
    )
