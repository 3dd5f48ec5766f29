"""What a study will run and how long it will take, from a short measurement on this machine.

Training and inference are timed with the real model and shapes, rendering with the real simulator; the success rates
that decide how long episodes last are assumptions, stated in the result.
"""

import math
import os
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
    """The cells in the order in which they run, one line each."""
    lines: list[dict[str, Any]] = []
    first = cells.pretext(study)
    made = None if first is None else cells.demos(first, out)
    if made is not None:
        lines.append({"stage": "demos", "folder": made.out.name})
    for cell in cells.pretexts(study, out):
        named = {"arm": cell.arm, "seed": cell.seed}
        lines.append({"stage": "pretext", **named, "steps": cell.train.steps})
        lines.append({"stage": "dev", **named, "episodes": state.episodes_of(cell.eval)})
    demos = cells.demos(study, out)
    if demos is not None:
        lines += [{"stage": "demos", "folder": demos.out.name}]
    else:
        assert study.data is not None
        lines += [{"stage": "data", "source": str(study.data.source), "format": study.data.format}]
    for trial in cells.trials(study, out):
        named = {"arm": trial.arm, "seed": trial.cell.seed, "factor": trial.factor}
        lines.append({"stage": "tune", **named, "steps": trial.cell.train.steps})
        lines.append({"stage": "dev", **named, "episodes": state.episodes_of(trial.cell.eval)})
    for cell in cells.cells(study, out):
        named = {"arm": cell.arm, "seed": cell.seed}
        lines.append({"stage": "train", **named, "steps": cell.train.steps})
        for config in selection.candidates(cell):
            tried = {"policy": Path(config.policy).name, "execute": config.execute}
            lines.append({"stage": config.split, **named, **tried, "episodes": state.episodes_of(config)})
        lines.append({"stage": "eval", **named, "episodes": state.episodes_of(cell.eval)})
    lines += [
        {"stage": "eval", "arm": config.arm, "seed": 0, "episodes": state.episodes_of(config)}
        for config in cells.references(study, out)
    ]
    return lines


def estimate(
    study: StudyConfig,
    probes: dict[str, dict[str, Any]],
    frame_s: float,
    demo_steps: float,
    step_limit: int,
    jobs: int,
) -> dict[str, Any]:
    """Seconds per stage. ``probes``: arm -> result of ``train.probe.measure``; ``frame_s``: one rendered step.

    ``not_counted``: what cannot be known beforehand.
    """
    stages: dict[str, float] = {}
    if study.demos is not None:
        made = cells.demos(study, Path("runs"))
        demos = (len(made.tasks) if made else 0) * study.demos.per_task * demo_steps
        if study.pretext is not None:
            demos += len(study.pretext.tasks) * study.pretext.per_task * demo_steps
        stages["demos"] = START_S + demos * frame_s / min(study.eval.workers, CORES)
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
        chains = [_cell(cell, probes[cell.arm], frame_s, demo_steps, step_limit) for cell in found]
        if chains:
            # Side by side, the cells end no sooner than the longest, and share caches and memory.
            stages[name] = max(max(chains), sum(chains) / jobs) * (SIDE_BY_SIDE if jobs > 1 else 1.0)
    stages["report"] = START_S
    return {
        "stages": {k: round(v, 1) for k, v in stages.items()},
        "total_s": round(sum(stages.values()), 1),
        "assumed_success": ASSUMED,
        "not_counted": [] if study.demos is not None else ["the frame stores of data whose size is not known"],
    }


def _of_pretexts(study: StudyConfig, out: Path, probes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A pretext's cell costs what an arm costs that starts from it: the same backbone and recipe."""
    return {start.arm: probes[arm] for arm, start in cells.starts_of(study, out).items()}


def _cell(cell: cells.Cell, probe: dict[str, Any], frame_s: float, demo_steps: float, step_limit: int) -> float:
    """Seconds to train one policy, to try its candidates, and to evaluate it."""
    seconds = START_S + cell.train.steps * float(probe["seconds_per_step"])
    for config in (*selection.candidates(cell), cell.eval):
        seconds += START_S
        for control in config.controls:
            count = len(config.tasks) * ((control and config.control_episodes) or config.episodes)
            render = 0.0 if control in ("image-blank", "image-other") else frame_s  # nothing is rendered for these
            rate = ASSUMED[control or "arm"]
            steps = rate * demo_steps + (1 - rate) * step_limit
            # One policy serves all workers: they render side by side, inference does not get cheaper with more of them.
            inference = probe["seconds_per_inference"] / min(config.workers, config.batch)
            query = render / min(config.workers, CORES) + inference
            seconds += count * math.ceil(steps / config.execute) * query
    return seconds
