"""`python -m tests.service [--keep] [--only triggers|ui|kills]`: see the package."""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PARTS = ("triggers", "ui", "kills")


def _say(text: str) -> None:
    sys.stderr.write(f"[{time.strftime('%H:%M:%S')}] {text}\n")
    sys.stderr.flush()


async def measure(folder: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """Run an installation, and the parts of the proof that were asked for."""
    parts = tuple(wanted.only or PARTS)
    from tests.service.connecting import connect_all
    from tests.service.house import running_house

    result: dict[str, Any] = {}
    async with running_house(folder, wanted.accounts, _say) as house:
        await connect_all(house)
        if "triggers" in parts:
            from tests.service.triggers import try_triggers

            result["triggers"] = await try_triggers(house)
            _say(json.dumps(result["triggers"]))
        if "ui" in parts:
            from tests.service.ui import try_ui

            result["ui"] = await try_ui(house)
            _say(json.dumps(result["ui"]))
        if "kills" in parts:
            from tests.service.kills import try_kills

            result["kills"] = await try_kills(house, wanted.share, [word.lower() for word in wanted.kill])
    return result


def main() -> int:
    """Entry point; 0 if all that was asked for holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.service", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; by default all")
    parser.add_argument("--accounts", type=int, default=20, help="how many orgs are connected (at least 3)")
    parser.add_argument(
        "--kill", action="append", default=[], help="a word such as redis; by default all six"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the full load, while parts are killed")
    parser.add_argument("--keep", action="store_true", help="leave logs, settings and pictures behind")
    parser.add_argument("--folder", type=Path, help="where everything lies; must not exist")
    arguments = parser.parse_args()
    if arguments.folder:
        arguments.folder.mkdir(mode=0o755)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kommo-service-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user
    _say(f"everything lies in {folder}")
    good = False
    try:
        result = asyncio.run(measure(folder, arguments))
        sys.stdout.write(json.dumps(result, indent=2, default=str) + "\n")
        good = not result.get("kills", {}).get("faults")
    finally:
        if good and not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            _say(f"logs, settings and pictures: {folder}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
