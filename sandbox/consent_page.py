"""The browser's side of OAuth: the page on www where a person picks an account and presses Allow or Decline.

Plain HTML that works without scripts; one script does what `mode=popup` is for: the window that opened the popup goes
on, and the popup closes [D K/oauth-20].
"""

from html import escape

from sandbox.accounts import Card
from sandbox.integrations import Integration
from sandbox.oauth_pages import callback_url
from sandbox.state import Record
from sandbox.wire import HTML, Request, Response
from sandbox.world import World

_LISTED = 12  # more accounts than these are typed in, not picked
_SUGGESTED = 100
_SCOPES = {
    "crm": "Read and change leads, contacts, companies and tasks",
    "notifications": "Notifications",
    "push_notifications": "Push notifications",
    "files": "Files",
    "files_delete": "Delete files",
    "list_external_messages": "Read external chat history",
    "send_external_messages": "Send to external chats",
}
_STYLE = """
:root{color-scheme:light dark;--page:#eef1f5;--card:#fff;--text:#1d2733;--soft:#5b6878;--line:#d5dbe3;--go:#1a6fd4}
@media(prefers-color-scheme:dark){
:root{--page:#14181e;--card:#1e242c;--text:#e8edf3;--soft:#9aa7b6;--line:#36404c;--go:#2f7fe0}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:24px;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,sans-serif}
main{width:100%;max-width:440px;background:var(--card);border:1px solid var(--line);border-radius:14px;padding:28px}
.brand{margin:0 0 18px;color:var(--soft);font-size:13px;letter-spacing:.04em}
h1{margin:0 0 6px;font-size:22px;line-height:1.3}
p{margin:0 0 16px}.soft{color:var(--soft);font-size:14px;overflow-wrap:anywhere}
fieldset{border:0;padding:0;margin:0 0 18px}legend,.label{display:block;font-weight:600;padding:0;margin:0 0 6px}
.choice{display:flex;gap:10px;align-items:center;padding:9px 12px;border:1px solid var(--line);border-radius:9px;
margin-bottom:6px;cursor:pointer}
.choice:has(input:checked){border-color:var(--go);box-shadow:0 0 0 1px var(--go)}
.choice small{color:var(--soft);margin-left:auto}
input[type=text],select{width:100%;font:inherit;padding:9px 12px;border:1px solid var(--line);border-radius:9px;
background:transparent;color:inherit}
option{color:initial}
ul{margin:0 0 20px;padding-left:20px;color:var(--soft);font-size:14px}
.buttons{display:flex;gap:10px}
button{flex:1;font:inherit;font-weight:600;padding:11px;border-radius:9px;border:1px solid var(--line);cursor:pointer;
background:transparent;color:inherit}
button.go{background:var(--go);border-color:var(--go);color:#fff}
"""
_POPUP = """<script>
document.querySelector("form").addEventListener("submit", (event) => {
  if (!window.opener || window.opener.closed) return;
  event.preventDefault();
  const query = new URLSearchParams(new FormData(event.target, event.submitter));
  window.opener.location.href = new URL("/oauth?" + query, window.location.href).href;
  window.close();
});
</script>"""


def consent(world: World, request: Request) -> Response:
    """GET /oauth on the www host [D K/oauth-20].

    Query: `client_id`, `state`, `mode` as documented; `decision=allow|decline` is what the buttons send, `auto=` the
    same for scripts; `account` is a subdomain or id, the first one if absent; `user` is `admin`, `plain` or an id.
    """
    integration = world.oauth.integrations.get(request.first("client_id"))
    if integration is None:
        return _page("Integration not found", "No integration has this client_id.", 404)
    card = world.accounts.named(request.first("account") or world.accounts.cards[0].subdomain)
    if card is None:
        return _page("Account not found", "No account here has this name.", 404)
    decision = request.first("decision") or request.first("auto")
    if decision == "decline":
        state = request.first("state")
        declined = {"error": "access_denied", "client_id": integration.client_id}
        return _redirect(integration.callback(declined | ({"state": state} if state else {})))
    if decision != "allow":
        return _page("Allow access?", _form(world, integration, card, request))
    return _allowed(world, integration, card, request)


def _allowed(world: World, integration: Integration, card: Card, request: Request) -> Response:
    user = _user(world, card, request.first("user") or "admin")
    if user is None:
        return _page("User not found", "Nobody in this account can sign in as that.", 404)
    if not world.oauth.may_allow(card, integration, user):
        text = "The first time, an administrator of the account must install this integration."
        return _page("Ask an administrator", text, 403)
    url = callback_url(world, integration, card, request.first("state"), user_id=int(user["id"]))
    return _redirect(url)


def _user(world: World, card: Card, name: str) -> Record | None:
    known = {"admin": card.admin_id, "plain": card.plain_id}
    number = int(name) if name.isascii() and name.isdecimal() and len(name) < 16 else 0
    user = world.accounts.built(card).users.get(known.get(name, number))
    return user if user is not None and user["rights"]["is_active"] else None


def _redirect(url: str) -> Response:
    return Response(302, headers={"Location": url, "Cache-Control": "no-store"})


def _form(world: World, integration: Integration, card: Card, request: Request) -> str:
    kept = {"client_id": integration.client_id}
    kept |= {name: request.first(name) for name in ("state", "mode") if request.first(name)}
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in kept.items()
    )
    wanted = "".join(f"<li>{escape(_SCOPES.get(scope, scope))}</li>" for scope in integration.scopes)
    return (
        f'<p class="soft">Integration {escape(integration.client_id)} asks for access to an account of yours and goes '
        f"on to {escape(integration.redirect_uri)}</p>"
        f'<form action="/oauth" method="get">{hidden}{_accounts(world, card)}'
        '<p><label class="label" for="user">Signed in as</label><select id="user" name="user">'
        '<option value="admin">Administrator</option><option value="plain">A user who is none</option></select></p>'
        f'<p class="label">It will be able to</p><ul>{wanted}</ul><div class="buttons">'
        '<button name="decision" value="decline">Decline</button>'
        '<button class="go" name="decision" value="allow">Allow</button></div></form>'
        + ("" if request.first("mode") == "post_message" else _POPUP)
    )


def _accounts(world: World, chosen: Card) -> str:
    cards = world.accounts.cards
    if len(cards) > _LISTED:
        options = "".join(f'<option value="{escape(card.subdomain)}">' for card in cards[:_SUGGESTED])
        return (
            '<p><label class="label" for="account">Account</label>'
            '<input type="text" id="account" name="account" list="accounts" required autocomplete="off" '
            f'value="{escape(chosen.subdomain)}"><datalist id="accounts">{options}</datalist></p>'
        )
    choices = "".join(
        f'<label class="choice"><input type="radio" name="account" value="{escape(card.subdomain)}"'
        f"{' checked' if card is chosen else ''}> {escape(card.name)}<small>{escape(card.host)}</small></label>"
        for card in cards
    )
    return f"<fieldset><legend>Account</legend>{choices}</fieldset>"


def _page(title: str, inner: str, status: int = 200) -> Response:
    body = inner if inner.startswith("<") else f'<p class="soft">{escape(inner)}</p>'
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
        f'{escape(title)}</title><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<style>{_STYLE}</style></head><body><main><p class="brand">SANDBOX · stands in for Kommo</p>'
        f"<h1>{escape(title)}</h1>{body}</main></body></html>"
    )
    return Response(status, text.encode(), HTML, {"Cache-Control": "no-store"})
