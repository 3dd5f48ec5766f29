"""Run verbs of the command line as processes of their own: one after the other, or several cells at a time.

Each process ends with this one (a restart must not meet a second writer). Cells that run side by side write their
messages to ``cell.log`` in their folder; here one line per cell shows how far it is, read from the files it writes.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from vlm4vla import config as configs
from vlm4vla import records
from vlm4vla.config import Config
from vlm4vla.study.cells import Cell
from vlm4vla.types import RunFailed

Say = Callable[[str], None]


def command(words: Sequence[str]) -> list[str]:
    """The process behind ``vlm4vla WORDS``; ``--parent`` makes it end when this one does."""
    return [sys.executable, "-m", "vlm4vla.cli", "--parent", str(os.getpid()), *words]


def with_config(verb: Sequence[str], config: Config, out: Path) -> list[str]:
    """``verb FILE``, with all settings written to FILE beside the folder ``out``."""
    file = out.with_name(out.name + ".yaml")
    records.write_atomic(file, configs.to_yaml(config))
    return [*verb, str(file)]


def default_jobs(threads: int) -> int:
    """Cells at a time when the user does not say: as many as the cores carry, one where a cell takes all of them."""
    return max(1, len(os.sched_getaffinity(0)) // threads) if threads else 1


def run_cells(found: Sequence[Cell], jobs: int, say: Say) -> None:
    """Train and evaluate every cell, ``jobs`` at a time. A failed cell stops no other; failures are told at the end."""
    failures: list[str] = []
    with _Board(found) as board, ThreadPoolExecutor(jobs) as pool:
        running: dict[Future[str], Cell] = {pool.submit(_run_cell, cell): cell for cell in found}
        while running:
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            board.refresh()
            for future in done:
                cell, failure = running.pop(future), future.result()
                say(f"{cell.eval.arm}: " + (f"failed: {failure}" if failure else "trained and evaluated"))
                if failure:
                    failures.append(f"{cell.eval.arm}: {failure} (its log is {_log(cell)})")
    if failures:
        told = "\n".join(failures)
        raise RunFailed(f"{len(failures)} of {len(found)} cells failed; run the same command again to go on.\n{told}")


def _run_cell(cell: Cell) -> str:
    """Train, then evaluate; the message of the stage that failed, or nothing."""
    log = _log(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    for verb, config, out in (("train", cell.train, cell.train.out), ("eval", cell.eval, cell.eval.out)):
        with log.open("ab") as f:
            done = subprocess.run(
                command(with_config([verb], config, out)), stdin=subprocess.DEVNULL, stdout=f, stderr=f, check=False
            )
        if done.returncode:
            lines = [x for x in log.read_text(errors="replace").splitlines() if x.strip()]
            told = [x for x in lines if x.startswith("vlm4vla: ")]
            return f"{verb} ended with status {done.returncode}: {(told or lines or ['(no message)'])[-1]}"
    return ""


def _log(cell: Cell) -> Path:
    return cell.train.out.parent / "cell.log"


class _Board:
    """One bar per cell on stderr: training steps, then episodes."""

    def __init__(self, found: Sequence[Cell]) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
        self._tasks = {cell.eval.arm: self._progress.add_task(cell.eval.arm, total=1, note="") for cell in found}
        self._cells = found

    def __enter__(self) -> "_Board":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def refresh(self) -> None:
        for cell in self._cells:
            training = not (cell.train.out / "run.json").is_file()
            episodes = len(cell.eval.tasks) * cell.eval.episodes
            controls = len(cell.eval.tasks) * (cell.eval.control_episodes or cell.eval.episodes)
            total = cell.train.steps if training else episodes + controls * (len(cell.eval.controls) - 1)
            done = _lines(cell.train.out / "metrics.jsonl") * cell.train.log_every if training else self._rows(cell)
            note = "training" if training else "evaluation"
            self._progress.update(self._tasks[cell.eval.arm], total=total, completed=min(done, total), note=note)

    @staticmethod
    def _rows(cell: Cell) -> int:
        return _lines(cell.eval.out / "rows.jsonl")


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0
