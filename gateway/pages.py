"""The page that a person sees at the end: one card, plain words, nothing loaded from anywhere, light and dark."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from fastapi.responses import HTMLResponse

from gateway.endings import Told, Tone

_CLOSES_AFTER_MS = 1200

_STYLE = """
:root{color-scheme:light dark;--ground:#f2f4f7;--card:#fff;--ink:#17202c;--soft:#4a5668;--line:#dfe4eb;--link:#0b57c2;
--good:#14743f;--calm:#8a5300;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--ground:#10141a;--card:#1a2029;--ink:#eef1f6;--soft:#b3bdcb;--line:#2f3845;
--link:#8ab8ff;--good:#5fd394;--calm:#f0b45c;--bad:#ff9189}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;min-height:100dvh;display:grid;place-items:center;padding:1.25rem;background:var(--ground);
color:var(--ink);font:1.0625rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{width:100%;max-width:29rem;background:var(--card);border:1px solid var(--line);border-radius:1rem;
padding:2.25rem 2rem 1.5rem;box-shadow:0 1px 2px #0000000d,0 12px 32px #0000000f}
svg{display:block;width:3.25rem;height:3.25rem;fill:none;stroke:currentColor;stroke-width:3.5;stroke-linecap:round;
stroke-linejoin:round}
h1{margin:1.1rem 0 .5rem;font-size:1.55rem;line-height:1.25;letter-spacing:-.01em;text-wrap:balance}
p{margin:0 0 .75rem;text-wrap:pretty}
.next{color:var(--soft)}
.who{display:inline-block;margin:.1rem 0 .9rem;padding:.3rem .7rem;border:1px solid var(--line);border-radius:.55rem;
font-size:.95rem;overflow-wrap:anywhere}
a{display:inline-block;margin:.5rem 0 .75rem;padding:.6rem 1.15rem;border-radius:.6rem;background:var(--link);
color:var(--card);font-weight:600;text-decoration:none}
a:hover{filter:brightness(1.1)}
a:focus-visible{outline:3px solid var(--link);outline-offset:3px}
footer{margin-top:1rem;padding-top:.8rem;border-top:1px solid var(--line);color:var(--soft);font-size:.85rem}
code{font:inherit;font-variant-numeric:tabular-nums;user-select:all;overflow-wrap:anywhere}
.good{color:var(--good)}.calm{color:var(--calm)}.bad{color:var(--bad)}
@media (max-width:26rem){main{padding:1.6rem 1.25rem 1.1rem}h1{font-size:1.35rem}}
"""
_MARKS = {
    Tone.GOOD: '<path d="m15 24.5 6.5 6.5L34 18"/>',
    Tone.CALM: '<path d="M24 15v11"/><path d="M24 32.5v.5"/>',
    Tone.BAD: '<path d="m17 17 14 14M31 17 17 31"/>',
}
# The address in the bar holds the code, which may still be good: it goes out of the bar and out of the history.
_FORGET = "history.replaceState(null,'',location.pathname);"
_POST = """
var told=JSON.parse(document.getElementById('told').textContent);
if(window.opener){window.opener.postMessage(told.message,told.target);
if(told.closes){setTimeout(function(){window.close()},told.closes)}}
"""


@dataclass(frozen=True)
class Message:
    """What the page tells the window that opened it.

    Attributes:
        body: The message.
        target: The only origin that gets it.
    """

    body: Mapping[str, object]
    target: str


def page(
    told: Told,
    *,
    nonce: str,
    reference: str,
    who: str | None = None,
    back: str | None = None,
    message: Message | None = None,
) -> HTMLResponse:
    """The page of one ending.

    Args:
        told: What to say.
        nonce: Random, for this answer only: what makes its style and script run and no other.
        reference: What the log knows this request by.
        who: Name of the account, where there is one.
        back: Address in the product to go back to; must have been checked.
        message: What to tell the window that opened this one.
    """
    parts = [
        f'<svg viewBox="0 0 48 48" aria-hidden="true" class="{told.tone}"><circle cx="24" cy="24" r="21"/>',
        f"{_MARKS[told.tone]}</svg>",
        f'<h1>{escape(told.title)}</h1><div role="{"alert" if told.tone is Tone.BAD else "status"}">',
        f'<p class="who">{escape(who)}</p>' if who else "",
        f"<p>{escape(told.what)}</p></div>",
        f'<p class="next">{escape(told.next)}</p>',
        f'<a href="{escape(back)}" rel="noreferrer">Back to the app</a>' if back else "",
        ""
        if told.tone is Tone.GOOD
        else f"<footer>For questions, quote <code>{escape(reference)}</code></footer>",
    ]
    script = _FORGET
    data = ""
    if message is not None:
        script += _POST
        closes = _CLOSES_AFTER_MS if told.leaves else 0
        data = _json_for_html({"message": message.body, "target": message.target, "closes": closes})
        data = f'<script type="application/json" id="told" nonce="{nonce}">{data}</script>'
    body = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(told.title)}</title><link rel="icon" href="data:,">'
        f'<style nonce="{nonce}">{_STYLE}</style></head>'
        f'<body><main>{"".join(parts)}</main>{data}<script nonce="{nonce}">{script}</script></body></html>'
    )
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(body, told.status, {"Content-Security-Policy": policy})


def _json_for_html(value: object) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
