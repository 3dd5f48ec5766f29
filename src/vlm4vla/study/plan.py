"""What a study will run and how long it will take, from a short measurement on this machine.

Training and inference are timed with the real model and shapes, rendering with the real simulator; the success rates
that decide how long episodes last are assumptions, stated in the result.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm4vla.schemas import StudyConfig
from vlm4vla.study import cells, selection, state

ASSUMED = {
    "arm": 0.9,
    **dict.fromkeys(("image-blank", "image-other", "image-shuffled", "instruction-swapped"), 0.1),
    **dict.fromkeys(("camera-moved", "instruction-paraphrased"), 0.5),
}
"""Success rates assumed for the cost of evaluation; they decide nothing else."""
SIDE_BY_SIDE = 1.4  # slower per step than alone: 1.25 to 1.6 in four quickstarts with two cells on two cores (LOG.md)
CORES = len(os.sched_getaffinity(0))
START_S = 6.0  # start of one command: imports, the model, the simulator


def describe(study: StudyConfig, out: Path) -> list[dict[str, Any]]:
    """Every stage in the order in which they run, one line each: the study as a graph.

    ``folder`` is named by the content of the stage's settings, so that equal parts of studies are run once; ``needs``
    are the folders of the stages that come before. A policy whose rate is to be tuned has no folder yet (null).
    """
    first = cells.pretext(study)
    lines = [] if first is None else _data(first, out)
    for cell in cells.pretexts(study, out):
        lines += _steps(cell, "pretext", {})
    lines += _data(study, out)
    tuned: dict[str, list[str]] = {}
    for trial in cells.trials(study, out):
        lines += _steps(trial.cell, "tune", {"arm": trial.arm, "factor": trial.factor})
        tuned.setdefault(trial.arm, []).append(trial.cell.folder.name)
    for cell in cells.cells(study, out):
        lines += _steps(cell, "train", {}, tuned.get(cell.arm, []))
    lines += [
        {"stage": "eval", "arm": config.arm, "seed": 0, "episodes": state.episodes_of(config), "needs": []}
        for config in cells.references(study, out)
    ]
    return lines


def _data(study: StudyConfig, out: Path) -> list[dict[str, Any]]:
    """Demonstrations, or data of others, and the frame stores that are built from them."""
    demos = cells.demos(study, out)
    if demos is not None:
        lines: list[dict[str, Any]] = [{"stage": "demos", "folder": demos.out.name, "needs": []}]
        needs = [demos.out.name]
    else:
        assert study.data is not None
        lines = [{"stage": "data", "source": str(study.data.source), "format": study.data.format, "needs": []}]
        needs = [str(study.data.source)]
    for size in sorted({cells.recipe(study, arm).policy.backbone.view for arm in study.arms}):
        folder = cells.store_folder(study, out, size).name
        lines.append({"stage": "store", "folder": folder, "pixels": size, "needs": needs})
    return lines


def _steps(cell: cells.Cell, stage: str, named: dict[str, Any], tuned: list[str] | None = None) -> list[dict[str, Any]]:
    """Training, candidates and evaluation of a cell; ``tuned``: the trials that decide its rate."""
    who = {"arm": cell.arm, "seed": cell.seed, **named}
    folder = None if tuned else cell.folder.name
    needs = [source.store.name for source in cell.train.data.sources] + (tuned or [])
    needs += [] if cell.start is None else [cell.start.parent.name]
    lines: list[dict[str, Any]] = [
        {"stage": stage, **who, "steps": cell.train.steps, "folder": folder, "needs": needs},
    ]
    trained = [folder or f"{cell.arm}-s{cell.seed}"]
    for config in selection.candidates(cell):
        tried = {"policy": Path(config.policy).name, "execute": config.execute}
        lines.append({"stage": config.split, **who, **tried, "episodes": state.episodes_of(config), "needs": trained})
    lines.append(
        {"stage": cell.eval.split, **who, "episodes": state.episodes_of(cell.eval), "needs": trained},
    )
    return lines


@dataclass(frozen=True)
class Measured:
    """What the simulator took here: seconds of one rendered step, and steps of an episode.

    ``demo_steps``: of a demonstration (0 where none are recorded); ``solved_steps``: of an evaluation's episode that
    succeeds; ``step_limit``: of one that does not. ``unknown``: what could not be measured, in words.
    """

    frame_s: float
    demo_steps: float
    solved_steps: float
    step_limit: int
    unknown: tuple[str, ...] = ()


def estimate(study: StudyConfig, probes: dict[str, dict[str, Any]], measured: Measured, jobs: int) -> dict[str, Any]:
    """Seconds per stage. ``probes``: arm -> result of ``train.probe.measure``.

    ``not_counted``: what cannot be known beforehand.
    """
    stages: dict[str, float] = {}
    if study.demos is not None:
        made = cells.demos(study, Path("runs"))
        demos = (len(made.tasks) if made else 0) * study.demos.per_task * measured.demo_steps
        if study.pretext is not None:
            demos += len(study.pretext.tasks) * study.pretext.per_task * measured.demo_steps
        stages["demos"] = START_S + demos * measured.frame_s / min(study.eval.workers, CORES)
        stages["store"] = START_S + demos * 0.0003
    stages["references"] = START_S * len(study.references)
    out = Path("runs")
    probes = probes | _of_pretexts(study, out, probes)
    of_stages = {
        "pretext": cells.pretexts(study, out),
        "tuning": [t.cell for t in cells.trials(study, out)],
        "arms": cells.cells(study, out),
    }
    for name, found in of_stages.items():
        chains = [_cell(cell, probes[cell.arm], measured) for cell in found]
        if chains:
            # Side by side, the cells end no sooner than the longest, and share caches and memory.
            stages[name] = max(max(chains), sum(chains) / jobs) * (SIDE_BY_SIDE if jobs > 1 else 1.0)
    stages["report"] = START_S
    unseen = [] if study.demos is not None else ["the frame stores of data whose size is not known"]
    return {
        "stages": {k: round(v, 1) for k, v in stages.items()},
        "total_s": round(sum(stages.values()), 1),
        "assumed_success": ASSUMED,
        "not_counted": [*measured.unknown, *unseen],
    }


def _of_pretexts(study: StudyConfig, out: Path, probes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A pretext's cell costs what an arm costs that starts from it: the same backbone and recipe."""
    return {start.arm: probes[arm] for arm, start in cells.starts_of(study, out).items()}


def _cell(cell: cells.Cell, probe: dict[str, Any], measured: Measured) -> float:
    """Seconds to train one policy, to try its candidates, and to evaluate it."""
    seconds = START_S + cell.train.steps * float(probe["seconds_per_step"])
    for config in (*selection.candidates(cell), cell.eval):
        seconds += START_S
        for control in config.controls:
            count = len(config.tasks) * ((control and config.control_episodes) or config.episodes)
            drawn = control not in ("image-blank", "image-other")  # nothing is rendered for these
            render = measured.frame_s if drawn else 0.0
            rate = ASSUMED[control or "arm"]
            steps = rate * measured.solved_steps + (1 - rate) * measured.step_limit
            # One policy serves all workers: they render side by side, inference does not get cheaper with more of them.
            inference = probe["seconds_per_inference"] / min(config.workers, config.batch)
            query = render / min(config.workers, CORES) + inference
            seconds += count * math.ceil(steps / config.execute) * query
    return seconds
