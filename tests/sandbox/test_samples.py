"""Every published sample of an API answer has the same keys and types as the sandbox's answer."""

import json
from pathlib import Path

import pytest

from sandbox.fidelity import judge, main
from sandbox.fidelity_cases import CASES, Probe
from sandbox.shapes import differences, shape_of

SAMPLES = Path(__file__).parent.parent / "samples"
MANIFEST = json.loads((SAMPLES / "manifest.json").read_text(encoding="utf-8"))["samples"]
ANSWERS = (
    "api.response",
    "error.api",
    "error.oauth",
    "oauth.api.response",
    "oauth.token.response",
    "oauth.jwt.claims",
)


@pytest.mark.parametrize("file", sorted(CASES))
def test_the_sandbox_answers_in_the_shape_of_the_published_sample(file: str) -> None:
    kind = next(entry["kind"] for entry in MANIFEST if entry["file"] == file)
    assert judge(SAMPLES, file, kind).notes == ()


def test_no_published_answer_is_left_out() -> None:
    answers = {entry["file"] for entry in MANIFEST if entry["kind"] in ANSWERS}
    assert answers == CASES.keys()


def test_every_error_sample_is_reproduced_with_its_status_and_texts() -> None:
    for entry in MANIFEST:
        if entry["kind"] in {"error.api", "error.oauth"} and entry["file"] != "err_404.json":
            published = json.loads((SAMPLES / entry["file"]).read_text(encoding="utf-8"))
            ours = CASES[entry["file"]].ask(Probe())
            assert isinstance(ours, dict)
            for key in ("title", "type", "status", "detail", "hint", "retry_after"):
                assert ours.get(key) == published.get(key), entry["file"]


def test_the_comparison_notices_missing_keys_other_types_and_uncompared_lists() -> None:
    published = shape_of({"a": 1, "b": [{"c": "x"}], "d": None})
    assert differences(published, shape_of({"a": 2, "b": [{"c": None}], "d": {"e": 1}}), frozenset()) == []
    found = differences(published, shape_of({"a": "2", "b": [{}], "e": 1}), frozenset({"d"}))
    assert found == [
        "a: published ['number'], ours ['string']",
        "b[].c: only in the published answer",
        "e: only in ours",
    ]
    assert len(differences(published, shape_of({"a": 1, "b": [], "d": 1}), frozenset())) == 1


def test_the_command_prints_a_table_and_the_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "manifest.json"
    chosen = [entry for entry in MANIFEST if entry["file"] in {"err_401.json", "chats_webhook_typing.json"}]
    small.write_text(json.dumps({"samples": chosen}), encoding="utf-8")
    (tmp_path / "err_401.json").write_bytes((SAMPLES / "err_401.json").read_bytes())
    assert main([str(tmp_path)]) == 0
    assert "1 same, 0 differ, 1 not covered" in capsys.readouterr().out
