"""``vlm4vla bench ceiling``: what a perfect imitator of the expert reaches, under a normaliser and an executed horizon.

Normalisers are fitted on what the expert asks for on train starts, and tried on dev starts; see ``forecast.py`` for
what acts. (In CALVIN's own format labels are the poses that were reached: a little smaller, as the arm lags behind.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from vlm4vla.bench import install
from vlm4vla.data.normalize import Normalizer
from vlm4vla.data.statistics import Statistics
from vlm4vla.rollout.demos import recordable
from vlm4vla.rollout.jobs import chosen_tasks, must_be_playable
from vlm4vla.rollout.pool import WorkerPool
from vlm4vla.rollout.worker import load
from vlm4vla.schemas import NormalizerConfig
from vlm4vla.types import Benchmark, RunFailed, refuse

Log = Callable[[str], None]
NONE = "none"
"""The name of the channel that cuts nothing: the expert itself."""
_KINDS = get_args(NormalizerConfig.model_fields["kind"].annotation)
_AFTER_SUCCESS = 4  # steps, as in recorded demonstrations


@dataclass(frozen=True)
class Ceiling:
    """What is measured. ``normalizers``: "none", "KIND" or "KIND:CLIP"; ``horizons``: (chunk, executed) pairs."""

    bench: str
    tasks: tuple[str, ...]
    episodes: int
    fit_episodes: int
    normalizers: tuple[str, ...]
    horizons: tuple[tuple[int, int], ...]
    noise: float
    workers: int


def horizon(text: str) -> tuple[int, int]:
    """ "10:5" -> (10, 5): chunks of ten actions, five of them executed."""
    chunk, _, execute = text.partition(":")
    if not (chunk.isdecimal() and execute.isdecimal() and 1 <= int(execute) <= int(chunk)):
        raise refuse(
            f"A horizon of {text!r} was given",
            possible="CHUNK:EXECUTED with 1 <= EXECUTED <= CHUNK, such as 10:5",
            todo="Mend it.",
        )
    return int(chunk), int(execute)


def sentence(line: dict[str, Any]) -> str:
    """One line of ``measure`` for people."""
    chains = f", {line['completed']:.2f} tasks in a row" if "completed" in line else ""
    return (
        f"{line['normalizer']}, {line['execute']} of {line['chunk']} executed: {line['successes']}/{line['episodes']} "
        f"({100 * line['low']:.1f} to {100 * line['high']:.1f} %), {line['steps']:.0f} steps{chains}"
    )


def measure(what: Ceiling, log: Log) -> list[dict[str, Any]]:
    """A line per normaliser, horizon and task, and one over all tasks (``task`` null), with Clopper-Pearson bounds."""
    bench: Benchmark = load(what.bench)
    if not (what.normalizers and what.horizons and what.episodes > 0 and what.fit_episodes > 0):
        raise refuse(
            "Nothing was asked for: no normaliser, no horizon, or no episode",
            possible="at least one of each",
            todo="Leave the empty option out, or name something.",
        )
    horizons = tuple(dict.fromkeys(what.horizons))
    tasks = chosen_tasks(what.tasks, bench) if what.tasks else recordable((), bench)
    starts = {task: bench.episodes("dev", task, what.episodes) for task in tasks}
    short = [task for task in tasks if len(starts[task]) < what.episodes]
    if short:
        raise refuse(
            f"{what.episodes} dev starts of {short[0]!r} were asked for",
            possible=f"1 to {len(starts[short[0]])}",
            todo="Lower --episodes.",
        )
    configs = {name: _config(name) for name in what.normalizers}
    must_be_playable(tasks, bench)
    path = install.home() / "log" / f"ceiling-{Path(what.bench).stem}.log"
    with WorkerPool(what.bench, what.workers, path) as pool:
        actions = _labels(pool, bench, tasks, what)
        statistics = Statistics.of(actions)
        log(f"fitted on {len(actions)} steps of the expert on train starts")
        channels = {
            name: None if config is None else Normalizer.fit(bench.action_spec, statistics, config).to_dict()
            for name, config in configs.items()
        }
        jobs = [
            {
                "kind": "ceiling",
                "id": f"{name}/{chunk}/{execute}/{task}/{episode.index}",
                "cell": (name, chunk, execute, task),
                "episode": episode.to_dict(),
                "normalizer": channel,
                "chunk": chunk,
                "execute": execute,
            }
            for name, channel in channels.items()
            for chunk, execute in horizons
            for task in tasks
            for episode in starts[task]
        ]
        found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for done, (job, result) in enumerate(pool.run(jobs), 1):
            if result["kind"] == "failure":
                raise RunFailed(f"The episode {job['id']} failed: {result['error']}")
            found.setdefault(tuple(job["cell"]), []).append(result)
            if done % 100 == 0:
                log(f"{done} of {len(jobs)} episodes")
    lines: list[dict[str, Any]] = []
    for name in channels:
        for chunk, execute in horizons:
            parts = [found[name, chunk, execute, task] for task in tasks]
            every = [result for part in parts for result in part]
            cell = {"normalizer": name, "chunk": chunk, "execute": execute}
            lines.append(cell | {"task": None} | _line(every))
            lines += [cell | {"task": task} | _line(part) for task, part in zip(tasks, parts, strict=True)]
    return lines


def _config(name: str) -> NormalizerConfig | None:
    if name == NONE:
        return None
    kind, _, clip = name.partition(":")
    try:
        cut = float(clip) if clip else None
    except ValueError:
        cut = -1.0
    if kind not in _KINDS or (cut is not None and not 0 < cut <= 1):
        raise refuse(
            f"Unknown normaliser {name!r}",
            given=kind,
            possible=[NONE, *_KINDS, *(f"{kind}:0.65" for kind in _KINDS)],
            todo="Name a kind, and behind a colon where it is cut (above 0, up to 1), if at all.",
        )
    return NormalizerConfig.model_validate({"kind": kind, "clip": cut})


def _labels(pool: WorkerPool, bench: Benchmark, tasks: Sequence[str], what: Ceiling) -> npt.NDArray[np.float32]:
    """(N, A) labels of successful demonstrations, in the order of starts: what a normaliser is fitted on."""
    jobs = [
        {
            "kind": "demo",
            "id": f"fit/{task}/{episode.index}",
            "place": (number, episode.index),
            "episode": episode.to_dict(),
            "noise": what.noise,
            "after_success": _AFTER_SUCCESS,
            "pictures": False,
        }
        for number, task in enumerate(tasks)
        for episode in bench.episodes("train", task, what.fit_episodes)
    ]
    found: dict[tuple[int, int], npt.NDArray[np.float32]] = {}
    for job, result in pool.run(jobs):
        if result["kind"] == "failure":
            raise RunFailed(f"The demonstration {job['id']} failed: {result['error']}")
        if result["success"]:
            found[tuple(job["place"])] = np.asarray(result["actions"], np.float32)
    if not found:
        raise RunFailed(f"The expert solves none of the {len(jobs)} train starts, so there is nothing to fit on.")
    return np.concatenate([found[place] for place in sorted(found)])


def _line(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    solved, n = sum(r["success"] for r in results), len(results)
    interval = binomtest(solved, n).proportion_ci(0.95, "exact")
    line = {
        "episodes": n,
        "successes": solved,
        "rate": solved / n,
        "low": float(interval.low),
        "high": float(interval.high),
        "steps": float(np.mean([r["steps"] for r in results])),
    }
    chains = [r["completed"] for r in results if r["completed"] is not None]
    return line | ({"completed": float(np.mean(chains))} if chains else {})
