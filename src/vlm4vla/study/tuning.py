"""Equal budgets for learning rates: every arm is tried with the same factors, and its best one trains the seeds."""

import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from vlm4vla import records
from vlm4vla.records import EpisodeRow
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import cells, selection, state


def factors(study: StudyConfig, out: Path) -> dict[str, float] | None:
    """Arm -> chosen factor, for the arms whose trials are all finished; null under ``lr_policy: fixed``."""
    if study.grid is None:
        return None
    return {arm: best(scores) for arm, scores in _scores(study, out).items() if len(scores) == len(study.grid.factors)}


def best(scores: Mapping[float, float]) -> float:
    """The factor with the highest score; among equals the nearest to 1, then the smaller."""
    return min(scores, key=lambda factor: (-scores[factor], round(abs(math.log(factor)), 9), factor))


def document(study: StudyConfig, out: Path) -> dict[str, Any] | None:
    """The sensitivity to the learning rate, for study.json: per arm the rates, their dev scores and the choice.

    ``flips``: pairs of arms of which one leads at some factor and the other at another.
    """
    if study.grid is None:
        return None
    found = _scores(study, out)
    return {
        "factors": list(study.grid.factors),
        "seed": study.grid.seed,
        "episodes": study.grid.episodes or study.eval.episodes,
        "arms": [
            {
                "arm": arm,
                "rates": [cells.recipe(study, arm, factor).optimizer.lr for factor in study.grid.factors],
                "scores": [scores[factor] for factor in study.grid.factors],
                "chosen": best(scores),
            }
            for arm, scores in found.items()
        ],
        "flips": flips(found),
    }


def flips(scores: Mapping[str, Mapping[float, float]]) -> list[dict[str, Any]]:
    """Every pair of arms whose order is not the same at all factors: who leads where, ties left out."""
    found: list[dict[str, Any]] = []
    for a, b in combinations(scores, 2):
        lead = {factor: scores[a][factor] - scores[b][factor] for factor in scores[a]}
        ahead = [factor for factor, difference in lead.items() if difference > 0]
        behind = [factor for factor, difference in lead.items() if difference < 0]
        if ahead and behind:
            found.append({"a": a, "b": b, "a_leads": ahead, "b_leads": behind})
    return found


def _scores(study: StudyConfig, out: Path) -> dict[str, dict[float, float]]:
    """Arm -> factor -> dev score, of the trials that are finished."""
    found: dict[str, dict[float, float]] = {arm: {} for arm in study.arms}
    for trial in cells.trials(study, out):
        if state.finished(trial.cell):
            rows = records.read_all(trial.cell.eval.out / "rows.jsonl", EpisodeRow)
            found[trial.arm][trial.factor] = selection.score(rows)
    return found
