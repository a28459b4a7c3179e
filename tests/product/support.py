"""What the tests of the product's side share: TypeScript, checked and run by Node."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "deployments" / "product-client"
# Where Node does not strip types by itself, TypeScript does it, and checks them on the way.
COMPILER = ("npm", "exec", "--yes", "--prefer-offline", "--package=typescript@5.9.3", "--", "tsc")
STRICT = [
    "--strict",
    "--noUncheckedIndexedAccess",
    "--exactOptionalPropertyTypes",
    "--noPropertyAccessFromIndexSignature",
    "--noEmitOnError",
    "--target",
    "es2022",
    "--module",
    "commonjs",
    "--lib",
    "es2022,dom,dom.iterable",
    "--rewriteRelativeImportExtensions",
]
REQUIRED = os.environ.get("KOMMO_TEST_NODE") == "required"  # before a fixture tidies the environment
NODE = shutil.which("node")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program, without this installation's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KOMMO_", "PREFECT_"))}
    return subprocess.run(
        command,
        env=kept | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def once_for_all(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first worker of a session fills and all of them use: compiling takes seconds each time."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            half = folder.with_suffix(".half")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            make(half)
            half.rename(folder)
    return folder


def compile_scripts(folder: Path, *scripts: Path) -> None:
    """Type-check scripts and what they import, strictly, and compile them into a folder.

    Skips where TypeScript cannot be had.
    """
    assert NODE is not None, "KOMMO_TEST_NODE=required, and there is no Node"
    root = str(Path(__file__).parents[2])
    done = run(*COMPILER, *STRICT, "--outDir", str(folder), "--rootDir", root, *map(str, scripts))
    if done.returncode and "error TS" not in done.stdout and not REQUIRED:
        pytest.skip("TypeScript cannot be had from npm")
    assert done.returncode == 0, done.stdout + done.stderr
