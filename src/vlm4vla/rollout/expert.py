"""``vlm4vla bench expert``: how often the scripted expert of a benchmark succeeds, task by task. Nothing is drawn."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from vlm4vla.bench import install
from vlm4vla.rollout.demos import recordable
from vlm4vla.rollout.jobs import chosen_tasks, must_be_playable
from vlm4vla.rollout.names import EXPERT
from vlm4vla.rollout.pool import WorkerPool
from vlm4vla.rollout.worker import load
from vlm4vla.types import Benchmark, EpisodeSpec, RunFailed, Split, refuse

Log = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """What is measured: ``episodes`` starts a task of a split, from start number ``first`` on. No task means all.

    ``noise``: sd of the noise on its arm, the same as in demonstrations, of which chains of subtasks have none.
    """

    bench: str
    tasks: tuple[str, ...]
    split: Split
    first: int
    episodes: int
    workers: int
    noise: float = 0.0


def measure(what: Trial, log: Log, python: Path | None = None) -> list[dict[str, Any]]:
    """A line a task, and one over all of them at the end (``task`` null).

    Keys: task, split, first, noise, episodes, successes, rate, low and high (95 %, Clopper-Pearson), steps (mean over
    the successes, null without any), completed (mean number of tasks in a row, of chains). ``python`` (tests) replaces
    the interpreter of the benchmark's environment. Raises UserError for starts that do not exist, RunFailed when an
    episode cannot be played.
    """
    bench = load(what.bench)
    tasks = recordable(what.tasks, bench) if what.noise else chosen_tasks(what.tasks, bench)
    starts = [start for task in tasks for start in _starts(what, bench, task)]
    must_be_playable(tasks, bench)
    found: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks}
    path = install.home() / "log" / f"expert-{Path(what.bench).stem}.log"
    with WorkerPool(what.bench, what.workers, path, python) as pool:
        for done, (job, result) in enumerate(pool.run([_job(start, what.noise) for start in starts]), 1):
            if result["kind"] == "failure":
                raise RunFailed(f"The episode {job['id']} failed: {result['error']}")
            found[job["episode"]["task"]].append(_of_demo(result) if what.noise else result)
            if done % 100 == 0:
                log(f"{done} of {len(starts)} episodes")
    every = [result for results in found.values() for result in results]
    return [_line(what, task, results) for task, results in found.items()] + [_line(what, None, every)]


def sentence(line: dict[str, Any]) -> str:
    """One line of ``measure`` for people."""
    steps = "" if line["steps"] is None else f", {line['steps']:.0f} steps"
    chains = f", {line['completed']:.2f} tasks in a row" if "completed" in line else ""
    noise = f", noise {line['noise']:g}" if line["noise"] else ""
    return (
        f"{line['task'] or 'all tasks'}: {line['successes']}/{line['episodes']} "
        f"({100 * line['low']:.1f} to {100 * line['high']:.1f} %){steps}{chains}{noise}"
    )


def _starts(what: Trial, bench: Benchmark, task: str) -> Sequence[EpisodeSpec]:
    if not 0 <= what.noise < math.inf:
        raise refuse(f"Noise of sd {what.noise} was asked for", possible="0 or more", todo="Mend the number.")
    if what.episodes < 1 or what.first < 0:
        raise refuse(
            f"{what.episodes} episodes from start {what.first} on were asked for",
            possible="one episode or more, from start 0 or a later one on",
            todo="Mend the numbers.",
        )
    end = what.first + what.episodes
    listed = bench.episodes(what.split, task, end)
    if len(listed) < end:
        raise refuse(
            f"The {what.split} starts {what.first} to {end - 1} of {task!r} were asked for",
            possible=f"0 to {len(listed) - 1}",
            todo="Ask for fewer episodes or earlier starts, or leave the task out.",
        )
    return listed[what.first :]


def _job(start: EpisodeSpec, noise: float) -> dict[str, Any]:
    if noise:
        job: dict[str, Any] = {"kind": "demo", "id": f"expert/{start.split}/{start.task}/{start.index}"}
        return job | {"episode": start.to_dict(), "noise": noise, "after_success": 0, "pictures": False}
    return {
        "kind": "rollout",
        "id": f"expert/{start.split}/{start.task}/{start.index}",
        "episode": start.to_dict(),
        "control": None,
        "other": None,
        "instruction": start.instruction,
        "policy": EXPERT,
        "execute": 1,
        "video": False,
        "assume_spec": False,
    }


def _of_demo(result: dict[str, Any]) -> dict[str, Any]:
    """What counts of a demonstration; it ends with its first success."""
    return {"success": result["success"], "steps": len(result["actions"]), "completed": None}


def _line(what: Trial, task: str | None, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    taken = [r["steps"] for r in results if r["success"]]
    interval = binomtest(len(taken), len(results)).proportion_ci(0.95, "exact")
    line = {
        "task": task,
        "split": what.split,
        "first": what.first,
        "noise": what.noise,
        "episodes": len(results),
        "successes": len(taken),
        "rate": len(taken) / len(results),
        "low": float(interval.low),
        "high": float(interval.high),
        "steps": float(np.mean(taken)) if taken else None,
    }
    chains = [r["completed"] for r in results if r["completed"] is not None]
    return line | ({"completed": float(np.mean(chains))} if task is not None and chains else {})
