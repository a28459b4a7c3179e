"""`python -m sandbox`: a sandbox as a process. Prints where it listens and how to get in, then serves until stopped."""

import argparse
import asyncio
import gc
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict

from sandbox.config import FULL_ACCOUNTS, LimitSettings, SandboxConfig
from sandbox.server import Sandbox, running_sandbox


def _config(arguments: argparse.Namespace) -> SandboxConfig:
    limits = LimitSettings(
        per_ip=arguments.limit if arguments.ip_limit is None else arguments.ip_limit,
        per_account=arguments.limit,
        retry_after=arguments.retry_after,
        html=arguments.html_429,
        block_after=arguments.block_after,
    )
    return SandboxConfig(
        host=arguments.host,
        port=arguments.port,
        accounts=arguments.accounts,
        small=arguments.small,
        leads=arguments.leads,
        contacts=arguments.contacts,
        companies=arguments.companies,
        fields=arguments.fields,
        talks=arguments.talks,
        seed=arguments.seed,
        limits=limits,
        refresh_mode=arguments.refresh,
        redirect_uri=arguments.redirect_uri,
        client_id=arguments.client_id,
        client_secret=arguments.client_secret,
        disable_hook=arguments.disable_hook,
        max_batch=arguments.max_batch,
    )


def _parser() -> argparse.ArgumentParser:
    default = SandboxConfig()
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="A Kommo stand-in on loopback.")
    parser.add_argument("--host", default=default.host)
    parser.add_argument("--port", type=int, default=8025, help="0 = any free port")
    for name in ("accounts", "leads", "contacts", "companies", "talks"):
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name), help="how many")
    parser.add_argument(
        "--small", action="store_true", help="accounts beyond the first 16 as small as can be: for thousands"
    )
    parser.add_argument("--fields", type=int, default=default.fields, help="extra custom fields per entity")
    parser.add_argument("--seed", type=int, default=default.seed, help="same seed, same data")
    parser.add_argument("--limit", type=float, default=7, help="requests per second; 0 = unthrottled")
    parser.add_argument(
        "--ip-limit", type=float, help="the same per client address, if it is another; 0 = only per account"
    )
    parser.add_argument(
        "--retry-after", type=float, default=default.limits.retry_after, help="seconds named in a 429"
    )
    parser.add_argument("--html-429", action="store_true", help="answer 429 as HTML")
    parser.add_argument(
        "--block-after",
        type=int,
        default=default.limits.block_after,
        help="429s within a minute that block the IP; 0 = never",
    )
    parser.add_argument(
        "--refresh", choices=("grace", "dead"), default="grace", help="fate of a used refresh token"
    )
    parser.add_argument("--redirect-uri", default=default.redirect_uri, help="of the integration")
    parser.add_argument("--client-id", default="", help="of the integration; made from the seed if left out")
    parser.add_argument(
        "--client-secret", default="", help="of the integration; made from the seed if left out"
    )
    parser.add_argument("--disable-hook", default="", help="URL told of an uninstall")
    parser.add_argument("--max-batch", type=int, default=0, help="bigger writes are answered 504; 0 = never")
    parser.add_argument("--json", action="store_true", help="print the ready line as JSON")
    return parser


def ready_line(sandbox: Sandbox, *, as_json: bool) -> str:
    """What is printed once the sandbox listens.

    Args:
        sandbox: The running sandbox.
        as_json: One line of JSON instead of lines for people.
    """
    integration, shown = sandbox.world.integration, sandbox.accounts[:FULL_ACCOUNTS]
    if as_json:
        return json.dumps(
            {
                "ready": True,
                "url": sandbox.url,
                "port": sandbox.port,
                "www": sandbox.www,
                "accounts": [asdict(known) for known in shown],
                "account_count": len(sandbox.world.accounts),
                "integration": {
                    "client_id": integration.client_id,
                    "client_secret": integration.client_secret,
                    "redirect_uri": integration.redirect_uri,
                    "disable_hook": integration.disable_hook,
                    "authorize_url": f"{sandbox.www}/oauth",
                },
            }
        )
    lines = [f"sandbox ready at {sandbox.url}"]
    for known in shown:
        lines += [
            f"  {known.host}  account {known.account_id}",
            f"    admin token:     {known.admin_token}",
            f"    non-admin token: {known.plain_token}",
        ]
    if len(shown) < len(sandbox.world.accounts):
        lines.append(
            f"  and so on: {len(sandbox.world.accounts)} accounts, see {sandbox.url}/_sandbox/accounts"
        )
    lines += [
        f"  integration {integration.client_id}  secret {integration.client_secret}",
        f"    authorize at {sandbox.www}/oauth, redirects to {integration.redirect_uri}",
        "  to use it with the other commands:",
        f"    export KOMMO_SANDBOX=1 KOMMO_AUTHORIZE_BASE={sandbox.www}",
        f"    export KOMMO_CLIENT_ID={integration.client_id} KOMMO_CLIENT_SECRET={integration.client_secret}",
        f"    export KOMMO_REDIRECT_URI={integration.redirect_uri}",
    ]
    return "\n".join(lines)


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_sandbox(_config(arguments)) as sandbox:
        sys.stdout.write(ready_line(sandbox, as_json=arguments.json) + "\n")
        sys.stdout.flush()
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    # Looking through all records of a large account for garbage takes half a second, in which requests wait and are
    # noted as later than they came; records refer to each other by their ids, so there is none among them.
    gc.set_threshold(10_000, 10, 1_000_000)
    try:
        asyncio.run(serve(parsed))
    except OSError as error:
        sys.stderr.write(f"The sandbox cannot listen on {parsed.host}:{parsed.port}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
