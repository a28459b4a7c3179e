"""requirements.lock must be what uv would export today, hashed, and name no package host."""

import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parent.parent / "requirements.lock"
EXPORT = [
    "uv",
    "export",
    "--quiet",
    "--no-dev",
    "--extra=service",
    "--extra=otel",
    "--no-emit-project",
    "--format",
    "requirements-txt",
    "--no-header",
]


def main() -> int:
    """Compare, or write the file with --write."""
    wanted = subprocess.run(EXPORT, check=True, capture_output=True, text=True, cwd=LOCK.parent).stdout
    if "://" in wanted or "--hash=" not in wanted:
        sys.stderr.write("The export names a package host or carries no hashes.\n")
        return 1
    if "--write" in sys.argv:
        LOCK.write_text(wanted)
        return 0
    if LOCK.read_text() != wanted:
        sys.stderr.write(
            "requirements.lock is not what pyproject.toml gives: python tests/check_lock.py --write\n"
        )
        return 1
    sys.stdout.write(f"{wanted.count('==')} packages, hashed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
