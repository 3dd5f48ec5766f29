"""Cells for Ray that need neither torch nor a simulator: what its processes do with them, and a driver to be killed.

As a program, ``ray_stages.py OUT ADDRESS`` runs the cells of ``study`` (ADDRESS "own": on a Ray of its own) with verbs
that write ``pid`` into their cell's folder and do not end.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from fake_stages import Stages

from vlm4vla import config as configs
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import cells, execute, on_ray
from vlm4vla.study.cells import Cell
from vlm4vla.study.state import Failure

FILE = Path(__file__).parents[2] / "studies" / "quickstart.yaml"
_VERB = """
import os, sys, time
from pathlib import Path
from vlm4vla.processes import die_with_parent
die_with_parent(int(sys.argv[1]))
Path(sys.argv[2]).write_text(str(os.getpid()))
time.sleep(3600)
"""


def study(*words: str) -> StudyConfig:
    return configs.load(StudyConfig, FILE, ["--tasks", "[drawer-open, drawer-close]", *words])


def _with(run: Callable[..., Any], cell: Cell) -> Failure | None:
    with mock.patch.object(execute.subprocess, "run", run):
        return execute.run_cell(cell)


def well(cell: Cell) -> Failure | None:
    """The verbs leave at once what they would leave."""
    return _with(Stages().run, cell)


def partly(cell: Cell) -> Failure | None:
    """The same, and ``surroundings``; the verbs of ``frozen-s0`` fail."""
    stages = Stages()
    stages.broken = ["frozen-s0"]
    failure = _with(stages.run, cell)
    told = [os.environ.get("OMP_NUM_THREADS"), os.nice(0), str(Path.cwd())]
    (cell.folder / "surroundings").write_text(str(told))
    return failure


def endless(cell: Cell) -> Failure | None:
    return _with(_hang(cell), cell)


def deadly(cell: Cell) -> Failure | None:
    """The process of ``frozen-s0`` is killed while its verb runs."""
    if cell.name != "frozen-s0":
        return well(cell)
    if os.fork() == 0:
        while not (cell.folder / "pid").is_file():
            time.sleep(0.05)
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    return endless(cell)


def _hang(cell: Cell) -> Callable[..., Any]:
    true = subprocess.run

    def run(words: list[str], **_more: Any) -> Any:
        return true([sys.executable, "-c", _VERB, words[words.index("--parent") + 1], str(cell.folder / "pid")])

    return run


if __name__ == "__main__":
    out, address = Path(sys.argv[1]), None if sys.argv[2] == "own" else sys.argv[2]
    with on_ray.connected(address, out, endless) as cluster:
        cluster.run_cells(cells.cells(study(), out), 2, print)
