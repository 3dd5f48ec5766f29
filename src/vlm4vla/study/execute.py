"""Run verbs of the command line as processes of their own: one after the other, or several cells at a time.

Each process ends with the one that started it (a restart must not meet a second writer). Cells that run side by side
write their messages to ``cell.log`` in their folder; here one line per cell shows how far it is, read from the files
it writes.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from vlm4vla import config as configs
from vlm4vla import records
from vlm4vla.config import Config
from vlm4vla.schemas import EvalConfig
from vlm4vla.study import selection, state
from vlm4vla.study.cells import Cell
from vlm4vla.study.state import Failure
from vlm4vla.types import RunFailed, UserError

Say = Callable[[str], None]
Work = Callable[[Cell], Failure | None]
"""What is done with a cell: ``run_cell``, here or in a process of another machine. Returns what failed, or nothing."""
RunCells = Callable[[Sequence[Cell], int, Say], list[Failure]]
"""``run_cells`` of this machine or of ``on_ray``."""
Start = Callable[[Cell], Future[Any]]
Outcome = Callable[[Cell, Future[Any]], Failure | None]


class StageFailed(Exception):
    """A verb of a cell ended with an error: the stage, and its last words."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.message = stage, message


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


def run_cells(found: Sequence[Cell], jobs: int, say: Say) -> list[Failure]:
    """Train and evaluate every cell that is not finished, ``jobs`` at a time. A failed cell stops no other."""
    with ThreadPoolExecutor(jobs) as pool:
        return follow(found, jobs, say, lambda cell: pool.submit(run_cell, cell), lambda _, future: future.result())


def follow(found: Sequence[Cell], jobs: int, say: Say, start: Start, outcome: Outcome) -> list[Failure]:
    """``start`` every cell that is not finished, ``jobs`` at a time, and show how far they are until all have ended.

    Nothing is started before its turn: what interrupts this function meets no cell that waits in a queue.
    """
    waiting = [cell for cell in found if not state.finished(cell)]
    running: dict[Future[Any], Cell] = {}
    failures: list[Failure] = []
    with _Board(waiting) as board:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running[start(cell)] = cell
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            board.refresh()
            for future in done:
                cell = running.pop(future)
                failure = outcome(cell, future)
                say(f"{cell.name}: trained and evaluated" if failure is None else f"{cell.name}: {failure.message}")
                if failure is not None:
                    failures.append(failure)
    return failures


def run_cell(cell: Cell) -> Failure | None:
    """Train, try candidates, evaluate; what failed, or nothing. ``study status`` reads the failure in the folder."""
    try:
        with records.locked(cell.folder):
            state.forget_failure(cell.folder)
            try:
                if not state.trained(cell.train):
                    _verb(cell, "train", cell.train, cell.train.out)
                for config in selection.candidates(cell):
                    _evaluate(cell, config)
                _evaluate(cell, selection.final(cell))
            except StageFailed as failed:
                state.note_failure(cell.folder, failed.stage, failed.message)
                return Failure(cell.name, failed.message, cell.log)
    except (UserError, RunFailed, OSError) as error:  # somebody else works on this cell, or the disk is full
        return Failure(cell.name, str(error), cell.log)
    return None


def _evaluate(cell: Cell, config: EvalConfig) -> None:
    if state.evaluated(config, state.policies(cell.train).values()):
        return
    if config.split == "eval":
        config = selection.numbered(cell.folder, config)
    _verb(cell, "eval", config, config.out)


def _verb(cell: Cell, verb: str, config: Config, out: Path) -> None:
    with cell.log.open("ab") as f:
        start = f.tell()
        words = command(with_config([verb], config, out))
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=f, stderr=f, check=False)
    if done.returncode:
        with cell.log.open("rb") as log:
            log.seek(start)  # the words of this attempt, not of an earlier one
            lines = [x for x in log.read().decode(errors="replace").splitlines() if x.strip()]
        told = [x for x in lines if x.startswith("vlm4vla: ")]
        last = (told or lines or ["(no message)"])[-1]
        raise StageFailed(verb, f"{verb} ended with status {done.returncode}: {last}")


class _Board:
    """One bar per cell on stderr: training steps, then episodes."""

    def __init__(self, found: Sequence[Cell]) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
        self._tasks = {cell.name: self._progress.add_task(cell.name, total=1, note="") for cell in found}
        self._cells = found

    def __enter__(self) -> "_Board":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def refresh(self) -> None:
        for cell in self._cells:
            training = not state.trained(cell.train)
            evaluations = [*selection.candidates(cell), cell.eval]
            total = cell.train.steps if training else sum(map(state.episodes_of, evaluations))
            done = state.steps_done(cell.train) if training else sum(map(state.episodes_done, evaluations))
            note = "training" if training else "evaluation"
            self._progress.update(self._tasks[cell.name], total=total, completed=min(done, total), note=note)
