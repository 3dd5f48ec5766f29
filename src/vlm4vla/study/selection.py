"""A cell's checkpoint and executed horizon by the rule that the study declared, and the count of its evaluations.

Candidates are evaluated by the same verb as everything else, each in a folder of its own beside the cell's evaluation;
the choice is read from their rows, so it can be made again from the records alone.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from vlm4vla import config as configs
from vlm4vla import records
from vlm4vla.choices import Candidate, Selection
from vlm4vla.records import EpisodeRow
from vlm4vla.schemas import EvalConfig
from vlm4vla.study import cells
from vlm4vla.study.cells import Cell
from vlm4vla.types import refuse

_LEDGER = "eval-starts.jsonl"


def steps_of(cell: Cell) -> tuple[int, ...]:
    """Training steps whose policies are candidates."""
    if cell.select is None or cell.select.checkpoints == "last":
        return (cell.train.steps,)
    return cell.select.checkpoints


def candidates(cell: Cell) -> list[EvalConfig]:
    """What is tried before the evaluation, the preferred first among equals: fewer steps, then the horizon's place."""
    if cell.select is None:
        return []
    found: list[EvalConfig] = []
    for step in steps_of(cell):
        for execute in cell.select.execute or (cell.eval.execute,):
            settings = configs.to_dict(cell.eval) | {
                "policy": str(cell.train.policy_at(step)),
                "split": cell.select.on,
                "episodes": cell.select.episodes,
                "execute": execute,
                "controls": [None],
                "control_episodes": None,
                "videos_per_task": 0,
            }
            name = f"try-{cell.select.on}-{step}-x{execute}-{cells.digest(settings, cell.benchmark)}"
            found.append(EvalConfig(**settings | {"out": cell.folder / name}))
    return found


def score(rows: Sequence[EpisodeRow]) -> float:
    """Mean success, or mean number of subtasks in a row where all episodes are chains. Tasks have equal episodes."""
    if not rows:
        raise refuse("A candidate has no rows to be chosen by", todo="Run its evaluation first.")
    chains = [row.completed for row in rows if row.completed is not None]
    return sum(chains) / len(rows) if len(chains) == len(rows) else sum(row.success for row in rows) / len(rows)


def selection(cell: Cell) -> Selection | None:
    """The choice, from the candidates' rows; null where the study declares checkpoint and horizon beforehand."""
    if cell.select is None:
        return None
    tried: list[Candidate] = []
    evaluations = candidates(cell)
    horizons = len(evaluations) // len(steps_of(cell))
    for place, config in enumerate(evaluations):
        rows = records.read_all(config.out / "rows.jsonl", EpisodeRow)
        tried.append(Candidate(step=steps_of(cell)[place // horizons], execute=config.execute, score=score(rows)))
    chosen = max(tried, key=lambda candidate: candidate.score)  # the first of equals
    return Selection(on=cell.select.on, episodes=cell.select.episodes, candidates=tuple(tried), chosen=chosen)


def final(cell: Cell) -> EvalConfig:
    """The one evaluation whose rows are reported, with the chosen policy and horizon; the candidates must have run."""
    found = selection(cell)
    if found is None:
        return cell.eval
    policy = str(cell.train.policy_at(found.chosen.step))
    return cell.eval.model_copy(update={"policy": policy, "execute": found.chosen.execute, "selection": found})


def numbered(folder: Path, config: EvalConfig) -> EvalConfig:
    """An evaluation on eval starts with its number among those that this cell's training run has seen; noted at once.

    So it counts whatever becomes of it: one that is cut off and goes on in its folder keeps its number, one whose
    folder was removed is another look at these starts.
    """
    before = [json.loads(text) for text in _noted(folder)]
    own = [line for line in before if line["folder"] == config.out.name]
    if own and config.out.is_dir():
        return config.model_copy(update={"evaluation": own[-1]["evaluation"]})
    when = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"evaluation": len(before) + 1, "folder": config.out.name, "begun": when}
    records.write_atomic(folder / _LEDGER, "".join(json.dumps(known) + "\n" for known in [*before, line]))
    config.out.mkdir(parents=True, exist_ok=True)
    return config.model_copy(update={"evaluation": line["evaluation"]})


def _noted(folder: Path) -> list[str]:
    file = folder / _LEDGER
    return file.read_text().splitlines() if file.is_file() else []
