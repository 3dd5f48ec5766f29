"""Episode rows and outcomes for the tests of the statistics."""

import numpy as np
import numpy.typing as npt

from vlm4vla.records import EpisodeRow
from vlm4vla.study.successes import Successes


def rows(run: str, outcomes: dict[str, list[bool]], **changes: object) -> list[EpisodeRow]:
    """The rows of one training run: outcomes by task."""
    made = []
    for k, (task, values) in enumerate(outcomes.items()):
        for i, success in enumerate(values):
            facts = {
                "run": run, "arm": run, "control": None, "benchmark": "bench@1", "task": task, "episode": i,
                "seed": 1000 * k + i, "success": bool(success), "steps": 10, "first_success_step": None,
                "failure": None, "video": None, "wall_s": 1.0,
            }  # fmt: skip
            made.append(EpisodeRow.model_validate(facts | changes))
    return made


def study(outcomes: npt.NDArray[np.bool_]) -> Successes:
    """(arms, seeds, tasks, starts) as a study."""
    arms, _, tasks, _ = outcomes.shape
    names = tuple(f"arm {k}" for k in range(arms))
    return Successes("bench@1", names, tuple(f"task {k}" for k in range(tasks)), tuple(np.moveaxis(outcomes, -2, 0)))
