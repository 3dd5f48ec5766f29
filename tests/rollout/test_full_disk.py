"""A disk that fills up during an evaluation: one sentence, whole files, and a second run that makes the same rows."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
from fake_bench import Benchmark

from vlm4vla import records
from vlm4vla.records import EpisodeRow
from vlm4vla.rollout import runner
from vlm4vla.rollout.pool import WorkerPool
from vlm4vla.schemas import EvalConfig
from vlm4vla.types import RunFailed

BENCH = str(Path(__file__).with_name("fake_bench.py"))
SENTENCE = (
    r"Cannot write .*: the disk is full \(\d+\.\d MiB are free in .*\)\. Possible.*Free some space.*goes on where"
)
CHILD = """
import sys
from pathlib import Path
from test_full_disk import evaluate
try:
    evaluate(Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""


def make_pool(_bench: str, workers: int, log: Path) -> WorkerPool:
    return WorkerPool(BENCH, workers, log, Path(sys.executable))


def evaluate(out: Path, pool: Any = make_pool, tasks: tuple[str, ...] = ("move", "slide")) -> None:
    runner.registry.find = lambda room, name: SimpleNamespace(Benchmark=Benchmark)  # type: ignore[assignment]
    config = {"policy": "builtin:expert", "bench": "fake", "tasks": tasks, "episodes": 4, "execute": 1, "out": out}
    runner.evaluate(EvalConfig(**config, arm="a", workers=1, videos_per_task=2), None, False, pool)


@pytest.fixture(autouse=True)
def registry_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.registry, "find", runner.registry.find)  # `evaluate` replaces it


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("only root mounts a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(disk: Path, pages: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={pages * resource.getpagesize()}", str(disk)], check=True)


def what_counts(out: Path) -> list[dict[str, Any]]:
    return [row.model_dump(exclude={"wall_s"}) for row in records.read_all(out / "rows.jsonl", EpisodeRow)]


def assert_whole(out: Path) -> None:
    """Nothing half-written stands under its final name, and no partial file is left; every row's video is there."""
    for video in out.glob("videos/*"):
        assert not video.name.startswith("."), video
        with av.open(str(video)) as shown:
            assert sum(1 for _ in shown.decode(video=0)) >= 4
    for row in records.read_all(out / "rows.jsonl", EpisodeRow):
        assert row.video is None or (out / row.video).is_file()
    assert not list(out.rglob("*.part")) + list(out.glob(".room*"))


@pytest.mark.parametrize(
    ("pages", "what"), [(1, "run"), (2, "run/run.json"), (3, "run/rows.jsonl"), (5, "run/videos/none_slide_0.mp4")]
)
def test_wherever_the_disk_fills_up_nothing_is_lost(disk: Path, tmp_path: Path, pages: int, what: str) -> None:
    """On the smallest there is no room for the workers' log."""
    evaluate(tmp_path / "whole")
    whole = what_counts(tmp_path / "whole")
    assert len(whole) == 8 and sum(row["video"] is not None for row in whole) == 4
    resize(disk, pages)
    with pytest.raises(RunFailed, match=SENTENCE) as told:
        evaluate(disk / "run")
    assert str(told.value).startswith(f"Cannot write {disk / what}: ")
    assert_whole(disk / "run")
    kept = what_counts(disk / "run")
    resize(disk, 500)
    evaluate(disk / "run")
    assert what_counts(disk / "run") == whole and all(row in whole for row in kept)
    assert_whole(disk / "run")


def test_workers_that_cannot_write_their_log_do_not_hide_it(disk: Path) -> None:
    def filled(_bench: str, workers: int, log: Path) -> WorkerPool:
        made = make_pool(_bench, workers, log)
        log.touch()
        with pytest.raises(OSError, match="No space"), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(512))
        return made

    resize(disk, 50)
    with pytest.raises(RunFailed, match=SENTENCE):
        evaluate(disk / "run", filled)
    (disk / "filler").unlink()
    evaluate(disk / "run")
    assert len(what_counts(disk / "run")) == 8


def test_files_that_must_not_grow_are_a_full_disk_too(tmp_path: Path) -> None:
    """The same without a file system of its own: at first no file may grow beyond 1500 bytes."""

    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    evaluate(tmp_path / "whole")
    words = [sys.executable, "-c", CHILD, str(tmp_path / "run")]
    path = {"PYTHONPATH": str(Path(__file__).parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=child, env=os.environ | path)
    assert done.stdout.startswith("RunFailed Cannot write") and "larger than allowed here" in done.stdout, done.stderr
    assert_whole(tmp_path / "run")
    evaluate(tmp_path / "run")
    assert what_counts(tmp_path / "run") == what_counts(tmp_path / "whole")
