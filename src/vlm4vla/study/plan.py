"""What a study will run and how long it will take, from a short measurement on this machine.

Training and inference are timed with the real model and shapes, rendering with the real simulator; the success rates
that decide how long episodes last are assumptions, stated in the result.
"""

import math
import os
from pathlib import Path
from typing import Any

from vlm4vla.schemas import StudyConfig
from vlm4vla.study import cells

ASSUMED = {"arm": 0.9, "image-blank": 0.1, "image-other": 0.1, "instruction-swapped": 0.1}
"""Success rates assumed for the cost of evaluation; they decide nothing else."""
SIDE_BY_SIDE = 1.4  # slower per step than alone: 1.25 to 1.6 in four quickstarts with two cells on two cores (LOG.md)
CORES = len(os.sched_getaffinity(0))
START_S = 6.0  # start of one command: imports, the model, the simulator


def describe(study: StudyConfig, out: Path) -> list[dict[str, Any]]:
    """The cells in the order in which they run, one line each."""
    lines: list[dict[str, Any]] = [{"stage": "demos", "folder": cells.demos(study, out).out.name}]
    for cell in cells.cells(study, out):
        lines.append({"stage": "train", "arm": cell.arm, "seed": cell.seed, "steps": cell.train.steps})
        own = len(cell.eval.tasks) * cell.eval.episodes
        checks = len(cell.eval.tasks) * study.eval.control_episodes * (len(cell.eval.controls) - 1)
        lines.append({"stage": "eval", "arm": cell.arm, "seed": cell.seed, "episodes": own + checks})
    lines += [
        {"stage": "eval", "arm": ev.arm, "seed": 0, "episodes": ev.episodes * len(ev.tasks)}
        for ev in cells.references(study, out)
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
    """Seconds per stage. ``probes``: arm -> result of ``train.probe.measure``; ``frame_s``: one rendered step."""
    demos = len(study.tasks) * study.demos.per_task * demo_steps
    stages = {
        "demos": START_S + demos * frame_s / min(study.eval.workers, CORES),
        "store": START_S + demos * 0.0003,
        "references": START_S * len(study.references),
    }
    chains = [_arm(study, arm, probes[arm], frame_s, demo_steps, step_limit) for arm in study.arms for _ in study.seeds]
    # Side by side, the cells end no sooner than the longest, and share caches and memory.
    stages["arms"] = max(max(chains), sum(chains) / jobs) * (SIDE_BY_SIDE if jobs > 1 else 1.0)
    stages["report"] = START_S
    return {
        "stages": {k: round(v, 1) for k, v in stages.items()},
        "total_s": round(sum(stages.values()), 1),
        "assumed_success": ASSUMED,
    }


def _arm(
    study: StudyConfig, arm: str, probe: dict[str, Any], frame_s: float, demo_steps: float, step_limit: int
) -> float:
    """Seconds to train and evaluate one policy."""
    kinds = [("arm", len(study.tasks) * study.eval.episodes, frame_s)]
    for control in study.arms[arm].controls:
        render = 0.0 if control in ("image-blank", "image-other") else frame_s  # nothing is rendered for these
        kinds.append((control, len(study.tasks) * study.eval.control_episodes, render))
    evaluation = 0.0
    for kind, count, render in kinds:
        steps = ASSUMED[kind] * demo_steps + (1 - ASSUMED[kind]) * step_limit
        # One policy serves all workers: they render side by side, inference does not get cheaper with more of them.
        inference = probe["seconds_per_inference"] / min(study.eval.workers, study.eval.batch)
        query = render / min(study.eval.workers, CORES) + inference
        evaluation += count * math.ceil(steps / study.eval.execute) * query
    training = study.train.steps * float(probe["seconds_per_step"])
    return 2 * START_S + training + evaluation
