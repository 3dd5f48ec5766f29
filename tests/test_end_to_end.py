"""The whole river with real parts, small: a study on the real simulator, killed at any moment, gives the same rows."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "studies" / "quickstart.yaml"
SMALL = [
    "--tasks", "[drawer-close, faucet-open]",
    "--demos.per_task", "1",
    "--train.steps", "6", "--train.batch", "4", "--train.checkpoint_every", "2", "--train.precision", "fp32",
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


@pytest.mark.sim
def test_killed_anywhere_with_one_worker_gives_the_same_rows(whole: Path, tmp_path: Path) -> None:
    """kill -9 of the whole process group in each stage, then the run with another number of workers: equal rows."""
    out = tmp_path / "study"
    for marker in ("demos-*/", "store-*/", "cells/trained-*/train/state.pt", "cells/frozen-*/eval-*/rows.jsonl"):
        process = subprocess.Popen(command(out, workers=1), start_new_session=True, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 200
        while not list(out.glob(marker)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "finished.json").exists(), f"finished before {marker} could be interrupted"
    done = finish(out, workers=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert rows(out) == rows(whole)
