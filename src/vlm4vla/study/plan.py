"""What a study will run and how long it will take, from a short measurement on this machine.

Training and inference are timed with the real model and shapes, rendering with the real simulator; the success rates
that decide how long episodes last are assumptions, stated in the result.
"""

import math
from pathlib import Path
from typing import Any

from vlm4vla.config import StudyConfig
from vlm4vla.study import cells

ASSUMED = {"arm": 0.75, "image-blank": 0.1, "image-other": 0.2, "instruction-swapped": 0.3}
"""Success rates assumed for the cost of evaluation; they decide nothing else."""
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
    study: StudyConfig, probes: dict[str, dict[str, Any]], frame_s: float, demo_steps: float, step_limit: int
) -> dict[str, Any]:
    """Seconds per stage. ``probes``: arm -> result of ``train.probe.measure``; ``frame_s``: one rendered step."""
    workers = min(study.eval.workers, 2)
    demos = len(study.tasks) * study.demos.per_task * demo_steps
    stages = {"demos": START_S + demos * frame_s / workers, "store": START_S + demos * 0.0015}
    training = evaluation = 0.0
    for arm, settings in study.arms.items():
        probe, episodes = probes[arm], len(study.tasks) * study.eval.episodes
        training += len(study.seeds) * (START_S + study.train.steps * probe["seconds_per_step"])
        kinds = [("arm", episodes, frame_s)]
        blind = {"image-blank", "image-other"}  # nothing is rendered for these
        for control in settings.controls:
            count = len(study.tasks) * study.eval.control_episodes
            kinds.append((control, count, 0.0 if control in blind else frame_s))
        for kind, count, render in kinds:
            steps = ASSUMED[kind] * demo_steps + (1 - ASSUMED[kind]) * step_limit
            queries = math.ceil(steps / study.eval.execute)
            # One policy serves all workers, so inference does not get cheaper with more of them.
            each = queries * (render / workers + probe["seconds_per_inference"] / min(workers, study.eval.batch))
            evaluation += len(study.seeds) * count * each
        evaluation += len(study.seeds) * START_S
    stages |= {"train": training, "eval": evaluation + START_S * len(study.references), "report": START_S}
    return {
        "stages": {k: round(v, 1) for k, v in stages.items()},
        "total_s": round(sum(stages.values()), 1),
        "assumed_success": ASSUMED,
    }
