"""lmms-eval around its own results file: what it wrote is read, what it cannot say is not made up.

``lmms_eval_results.json`` was written by lmms-eval 0.7.3 itself: its model "dummy", which always says A, on two tasks
of twelve lines and their group, with torchvision's missing operators declared by hand; only the data's path was cut.
Beside a torch without CUDA that version ends at its imports: "operator torchvision::nms does not exist".
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from vlm4vla.bench import install
from vlm4vla.cli.main import main
from vlm4vla.study import lmms_eval, scores
from vlm4vla.study.lmms_eval import Request
from vlm4vla.types import RunFailed, UserError

RECORDED = Path(__file__).with_name("lmms_eval_results.json")


def document(**changes: Any) -> dict[str, Any]:
    return json.loads(RECORDED.read_text()) | changes


def put(file: Path, found: dict[str, Any]) -> Path:
    file.write_text(json.dumps(found))
    return file


def quiet(_: str) -> None:
    pass


def test_the_recorded_results_become_rows() -> None:
    """Eight of twelve answers are A; the error is the sample's, the group's is pooled, the table is no number."""
    rows = {row.task: row for row in lmms_eval.read(RECORDED, "vlm", "family", "0.7.3")}
    assert set(rows) == {"parity_both", "parity", "parity_short"}
    one, group = rows["parity"], rows["parity_both"]
    assert (one.metric, one.n, group.n, one.evaluator) == ("accuracy", 12, 24, "lmms-eval 0.7.3")
    assert one.score == pytest.approx(8 / 12) and one.standard_error == pytest.approx((8 * 4 / 144 / 11) ** 0.5)
    assert group.standard_error == pytest.approx(one.standard_error / 2**0.5)
    assert len({row.prompt for row in rows.values()}) == 3  # another post_prompt, another test


def test_an_unknown_version_is_called_that() -> None:
    """A wheel of it writes "unknown@unknown"."""
    assert lmms_eval.read(RECORDED, "vlm", "family")[0].evaluator == "lmms-eval of unknown version"


def test_addresses_in_memory_are_no_part_of_the_prompt_and_a_models_own_prompt_is(tmp_path: Path) -> None:
    first = {row.task: row.prompt for row in lmms_eval.read(RECORDED, "vlm", "f")}
    text = RECORDED.read_text()
    moved = tmp_path / "moved.json"
    moved.write_text(text.replace("at 0x7f", "at 0x55"))
    assert moved.read_text() != text
    assert {row.task: row.prompt for row in lmms_eval.read(moved, "vlm", "f")} == first
    own = put(tmp_path / "own.json", document(config={"model": "qwen2_5_vl"}))
    assert all(row.prompt != first[row.task] for row in lmms_eval.read(own, "vlm", "f"))
    plain = put(tmp_path / "plain.json", document(config={"model": "another"}))
    assert {row.task: row.prompt for row in lmms_eval.read(plain, "vlm", "f")} == first


def test_filters_missing_errors_and_limits(tmp_path: Path) -> None:
    found = document()
    values = {"alias": "parity", "em,strict": 0.5, "em_stderr,strict": "N/A", "em,none": 0.25, "samples": 3}
    found["results"] = {"parity": values | {"x,none": " "}}
    found["n-samples"]["parity"]["effective"] = 3
    rows = lmms_eval.read(put(tmp_path / "r.json", found), "vlm", "f")
    assert [(r.metric, r.score, r.standard_error, r.n) for r in rows] == [
        ("em,strict", 0.5, None, 3),
        ("em", 0.25, None, 3),
    ]


def test_files_that_are_no_results(tmp_path: Path) -> None:
    torn = tmp_path / "torn.json"
    torn.write_text(RECORDED.read_text()[:900])
    with pytest.raises(UserError, match=r"torn\.json cannot be read.*a torn one must be made again"):
        lmms_eval.read(torn, "vlm", "f")
    with pytest.raises(UserError, match="lacks results, configs, versions, n-samples"):
        lmms_eval.read(put(tmp_path / "s.json", {"config": {}}), "vlm", "f")
    with pytest.raises(UserError, match="holds no number"):
        empty = {"parity": {"alias": "parity", "accuracy,none": "N/A"}}
        lmms_eval.read(put(tmp_path / "n.json", document(results=empty)), "vlm", "f")


def test_the_command_line_reads_a_file_made_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.json"
    for name in ("a", "b"):
        words = ["scores", "lmms-eval", f"o/{name}", "--results", str(RECORDED), "--out", str(out), "--name", name]
        assert main([*words, "--family", "F"]) == 0
    assert [row.vlm for row in scores.read_scores(out)] == ["a"] * 3 + ["b"] * 3
    assert "parity, accuracy 0.667 (standard error 0.142; 12 questions" in capsys.readouterr().out


# A made-up interpreter: it writes down its arguments, says something, and leaves the recorded results where told to.
TOOL = """#!{python}
import json, os, shutil, sys
from pathlib import Path
words = sys.argv[1:]
Path({log!r}).write_text(json.dumps(words))
print("loading", flush=True)
out = Path(words[words.index("--output_path") + 1]) / "owner__vlm"
if os.environ.get("TOOL") == "dies":
    sys.exit("no such model")
if os.environ.get("TOOL") != "silent":
    out.mkdir()
    shutil.copy({recorded!r}, out / "20261120_230450_results.json")
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment as installed, with an interpreter that plays lmms-eval; the file of its arguments."""
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path / "home"))
    python = install.home() / "envs" / lmms_eval.ENVIRONMENT / "bin" / "python"
    python.parent.mkdir(parents=True)
    log = tmp_path / "arguments.json"
    python.write_text(TOOL.format(python=sys.executable, log=str(log), recorded=str(RECORDED)))
    python.chmod(0o755)
    install._write_stamp(lmms_eval.ENVIRONMENT, install._WHOLE)
    return log


def request(tmp_path: Path, **changes: Any) -> Request:
    plain: dict[str, Any] = {"model": "owner/vlm", "tasks": ("parity_both",), "out": tmp_path / "s.json", "family": "f"}
    return Request(**plain | changes)


def test_it_is_run_in_its_own_environment_and_only_once(tool: Path, tmp_path: Path) -> None:
    asked = request(tmp_path, kind="dummy", model_args="max_pixels=1", limit=12, name="v")
    rows = lmms_eval.run(asked, quiet)
    words = json.loads(tool.read_text())
    assert words[:4] == ["-I", "-m", "lmms_eval", "--model"] and words[4] == "dummy"
    assert words[words.index("--model_args") + 1] == "pretrained=owner/vlm,max_pixels=1"
    assert words[words.index("--tasks") + 1] == "parity_both" and words[words.index("--limit") + 1] == "12"
    assert "--log_samples" in words
    assert {row.evaluator for row in rows} == {"lmms-eval 0.7.3"} and scores.read_scores(asked.out) == rows
    tool.unlink()
    assert lmms_eval.run(asked, quiet) == rows and not tool.exists()


def test_another_checkpoint_in_the_same_folder_is_asked_again(tool: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"one")
    asked = request(tmp_path, model=str(model))
    lmms_eval.run(asked, quiet)
    tool.unlink()
    lmms_eval.run(asked, quiet)
    assert not tool.exists()  # the same files: only read
    (model / "model.safetensors").write_bytes(b"another")
    lmms_eval.run(asked, quiet)
    assert tool.exists()


@pytest.mark.parametrize(("how", "told"), [("dies", "ended with status 1"), ("silent", "left no results")])
def test_a_run_without_results_is_a_failure_with_its_last_words(
    tool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, told: str
) -> None:
    """It ends with status 0 where an evaluation failed."""
    monkeypatch.setitem(os.environ, "TOOL", how)
    with pytest.raises(RunFailed, match=rf"(?s)lmms-eval {told}.*loading.*run the same command again"):
        lmms_eval.run(request(tmp_path), quiet)
    assert not (tmp_path / "s.json").exists()


def test_what_it_would_misread_is_refused(tool: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No task is named"):
        lmms_eval.run(request(tmp_path, tasks=()), quiet)
    with pytest.raises(UserError, match=r"would cut 'a,b' at its comma"):
        lmms_eval.run(request(tmp_path, model="a,b"), quiet)


def test_its_environment_is_made_from_pins_and_must_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torchvision does not load, the installation says so in Python's own words."""
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path / "home"))
    ran: list[list[str]] = []

    def call(words: list[str], lock: int | None) -> Any:
        ran.append(words)
        failed = "-c" in words
        if "venv" in words:
            (Path(words[-1]) / "bin").mkdir(parents=True)
        return install.subprocess.CompletedProcess(
            words, int(failed), "", "RuntimeError: operator torchvision::nms does not exist" if failed else ""
        )

    monkeypatch.setattr(install, "_call", call)
    with pytest.raises(UserError, match=r"(?s)What was installed does not load.*torchvision::nms does not exist"):
        install.install(lmms_eval.ENVIRONMENT, quiet)
    assert ran[1][-1].endswith("lmms-eval/requirements.txt") and ran[2][-4:] == [
        *("torch", "torchvision", "transformers", "lmms_eval")
    ]
    assert not install.is_installed(lmms_eval.ENVIRONMENT)
