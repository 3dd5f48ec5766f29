"""The command line: exit status, sentences on stderr, JSON on stdout, and no traceback for a user's mistake."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vlm4vla.cli.main import main

STUDY = str(Path(__file__).parents[1] / "studies" / "quickstart.yaml")


def run(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vlm4vla.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, **more)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["study", "plan", "studies/quikstart.yaml"], "No file"),
        (["study", "plan", STUDY, "--train.stepz", "3"], "Did you mean 'steps'"),
        (["study", "plan", STUDY, "--train.steps", "[1"], "not a valid value"),
        (["bench", "episodes", "metawrld"], "Did you mean 'metaworld'"),
        (["bench", "episodes", "metaworld", "--tasks", "drawer-opne"], "Did you mean 'drawer-open'"),
        (["backbones", "check", "qwen"], "Unknown name 'qwen'"),
        (["eval", "no/such/policy", "--bench", "metaworld", "--execute", "4", "--out", "x"], "not a policy folder"),
        (["eval", "builtin:expert", "--bench", "metaworld", "--out", "x"], "'execute' is missing"),
        (["serve", "nowhere"], "not a policy folder"),
        (["data", "info", "nowhere"], "not a finished store"),
        (["study", "report", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_sentences(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert sentence in capsys.readouterr().err


def test_unknown_verbs_and_options_are_usage_errors() -> None:
    for words in (["fly"], ["doctor", "--fast"], ["bench"], []):
        done = run(*words)
        assert done.returncode == 2 and "usage" in done.stderr.lower() and "Traceback" not in done.stderr


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "episodes", "metaworld", "--tasks", "drawer-open", "--per-task", "3"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2] and len({line["seed"] for line in lines}) == 3
    assert main(["study", "plan", STUDY, "--json"]) == 0
    assert [json.loads(x)["stage"] for x in capsys.readouterr().out.splitlines()].count("train") == 2
    assert main(["study", "audit", STUDY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]


def test_audit_fails_with_status_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "audit", STUDY, "--arms.frozen.overrides", "{batch: 32}"]) == 1
    assert "batch" in capsys.readouterr().out


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    """No file may grow beyond 8 KiB: what a full disk looks like to the program, without filling one."""

    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    words = [sys.executable, "-m", "vlm4vla.cli", "bench", "demos", "metaworld", "--tasks", "faucet-open"]
    words += ["--per-task", "1", "--out", str(tmp_path / "demos")]
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=child)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert "Cannot write" in done.stderr and "goes on where it stopped" in done.stderr
