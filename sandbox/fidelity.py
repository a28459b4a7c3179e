"""`python -m sandbox.fidelity tests/samples`: does the sandbox answer, and send, in the shapes of the samples?

Each sample's answer is asked from a fresh sandbox, each webhook made by a change in one, and compared recursively: the
same keys, the same JSON types. Null fits everything, list elements are united, and a key that may be missing stands in
the case's list with its reason.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.fidelity_cases import CASES, NOT_COVERED, Probe
from sandbox.fidelity_webhooks import HOOKS, comparable, decoded, sent
from sandbox.shapes import differences, shape_of


@dataclass(frozen=True)
class Verdict:
    """How one sample fared.

    Args:
        file: Its name.
        state: "same", "differs" or "not covered".
        notes: Differences, or why it is not covered.
    """

    file: str
    state: str
    notes: tuple[str, ...] = ()


def judge(folder: Path, file: str, kind: str) -> Verdict:
    """Compare one sample.

    Args:
        folder: Where the samples are.
        file: Name of the sample.
        kind: Its kind in the manifest.
    """
    if file in HOOKS:
        text = (folder / file).read_text(encoding="utf-8")
        published = comparable(json.loads(text)) if file.endswith(".json") else decoded(text.strip())
        case = HOOKS[file]
        found = differences(shape_of(published), shape_of(sent(case)), frozenset(case.allowed))
        return Verdict(file, "differs" if found else "same", tuple(found))
    answer = CASES.get(file)
    if answer is None:
        reason = next((text for start, text in NOT_COVERED.items() if kind.startswith(start)), None)
        return Verdict(file, "not covered", (reason or "no case was written for it",))
    published = json.loads((folder / file).read_text(encoding="utf-8"))
    found = differences(shape_of(published), shape_of(answer.ask(Probe())), frozenset(answer.allowed))
    return Verdict(file, "differs" if found else "same", tuple(found))


def judge_all(folder: Path) -> list[Verdict]:
    """Compare every sample of the manifest.

    Args:
        folder: Where `manifest.json` is.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return [judge(folder, entry["file"], entry["kind"]) for entry in manifest["samples"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table and the count; 1 if anything differs."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    verdicts = judge_all(Path(given[0] if given else "tests/samples"))
    for verdict in verdicts:
        sys.stdout.write(f"{verdict.state:<12}{verdict.file}\n")
        sys.stdout.writelines(f"{'':<14}{note}\n" for note in verdict.notes)
    count = {
        state: sum(known.state == state for known in verdicts) for state in ("same", "differs", "not covered")
    }
    sys.stdout.write(f"{count['same']} same, {count['differs']} differ, {count['not covered']} not covered\n")
    return 1 if count["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
