"""The whole river with real parts, small: a study on the real simulator, killed at any moment, gives the same rows."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "studies" / "quickstart.yaml"
SMALL = [
    "--tasks", "[drawer-close, faucet-open]",
    "--demos.per_task", "1",
    "--train.steps", "6", "--train.batch", "4", "--train.precision", "fp32",
    "--train.checkpoint_every", "2", "--train.log_every", "1",
    "--eval.episodes", "2", "--eval.control_episodes", "2", "--eval.batch", "2", "--eval.videos_per_task", "1",
    "--arms.trained.controls", "[image-other]",
]  # fmt: skip


def command(out: Path, workers: int) -> list[str]:
    words = [sys.executable, "-m", "vlm4vla.cli", "study", "run", str(FILE), "--out", str(out), *SMALL]
    return [*words, "--eval.workers", str(workers)]


def rows(out: Path) -> dict[str, list[dict[str, object]]]:
    """Rows by evaluation folder (named by content), without the measured seconds."""
    found: dict[str, list[dict[str, object]]] = {}
    for file in sorted(out.rglob("rows.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[str(file.relative_to(out))] = [{k: v for k, v in line.items() if k != "wall_s"} for line in lines]
    return found


def finish(out: Path, workers: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, workers), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, metaworld_env: Path) -> Path:
    out = tmp_path_factory.mktemp("whole") / "study"
    done = finish(out, workers=3)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.sim
def test_report_and_rows_are_there(whole: Path) -> None:
    found = rows(whole)
    # trained 2 tasks x 2 episodes, plus one control; frozen; do-nothing; expert
    assert sorted(len(lines) for lines in found.values()) == [4, 4, 4, 8]
    by_arm = {(line["arm"], line["control"]) for lines in found.values() for line in lines}
    assert by_arm == {
        ("trained", None),
        ("trained", "image-other"),
        ("frozen", None),
        ("do-nothing", None),
        ("expert", None),
    }
    experts = [line["success"] for lines in found.values() for line in lines if line["arm"] == "expert"]
    idle = [line["success"] for lines in found.values() for line in lines if line["arm"] == "do-nothing"]
    assert all(experts) and not any(idle)
    page = (whole / "report" / "index.html").read_text()
    assert "data:video/mp4;base64," in page and "frozen random vision" in page
    assert (whole / "report" / "report.md").is_file()


@pytest.mark.sim
def test_second_run_finishes_with_a_sentence(whole: Path) -> None:
    before = {f: f.stat().st_mtime_ns for f in whole.rglob("*") if f.is_file()}
    done = finish(whole, workers=3)
    assert done.returncode == 0 and "Already done" in done.stderr
    assert before == {f: f.stat().st_mtime_ns for f in whole.rglob("*") if f.is_file()}


def interrupted(out: Path, marker: str, kill: Callable[[int], None]) -> None:
    """Start the study, wait until ``marker`` exists, kill -9, and see that it was really cut off there."""
    process = subprocess.Popen(command(out, workers=1), start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(out.glob(marker)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(out.glob(marker)) and process.poll() is None, f"{marker} never came, or the study ended before"
    kill(process.pid)
    process.wait()
    assert not (out / "finished.json").exists()


@pytest.mark.sim
def test_killed_anywhere_with_one_worker_gives_the_same_rows(whole: Path, tmp_path: Path) -> None:
    """kill -9 in each stage, of the whole group and of the study alone, then another number of workers: equal rows."""
    out = tmp_path / "study"
    group: Callable[[int], None] = lambda pid: os.killpg(pid, signal.SIGKILL)  # noqa: E731
    alone: Callable[[int], None] = lambda pid: os.kill(pid, signal.SIGKILL)  # noqa: E731
    interrupted(out, "demos-*/run.json", group)
    interrupted(out, "store-*", alone)
    interrupted(out, "cells/trained-*/train/state.pt", alone)
    interrupted(out, "cells/trained-*/eval-*/rows.jsonl", alone)
    interrupted(out, "cells/frozen-*/eval-*/run.json", group)
    done = finish(out, workers=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert rows(out) == rows(whole)
