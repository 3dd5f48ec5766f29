"""How far a cell is, read from what lies in its folder: the study decides by it what to run, ``study status`` tells it.

A cell is *running* while a living process holds its lock, *finished* when training and evaluation have their records,
*failed* when the last attempt ended with an error, *stopped* when it was cut off (killed), else *missing*.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from vlm4vla import records
from vlm4vla.records import RunRecord
from vlm4vla.schemas import EvalConfig, TrainConfig
from vlm4vla.study.cells import Cell

State = Literal["missing", "running", "stopped", "failed", "finished"]
_FAILED = "failed.json"


@dataclass(frozen=True)
class Failure:
    """What did not work, its last words, and where the rest of them stands (null: above, on stderr)."""

    name: str
    message: str
    log: Path | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" + (f" (its log is {self.log})" if self.log else "")


def record_of(out: Path) -> RunRecord | None:
    """The record in a run's folder, if there is one."""
    return records.read_one(out / "run.json", RunRecord) if (out / "run.json").is_file() else None


def trained(train: TrainConfig) -> bool:
    """Whether the training run came to its end; its record is written last."""
    return (train.out / "run.json").is_file()


def policies(train: TrainConfig) -> dict[int, str]:
    """Step -> digest of the policy that a finished training run left of it; {} before it is finished."""
    record = record_of(train.out)
    if record is None:
        return {}
    kept = {int(step): str(digest) for step, digest in record.facts["kept"].items()} if train.keep else {}
    return kept | {train.steps: record.inputs["policy"]}


def evaluated(config: EvalConfig, of: Collection[str] | None = None) -> bool:
    """Whether the evaluation came to its end; ``of``: of one of these policies (digests), and not of others."""
    record = record_of(config.out)
    return record is not None and record.finished is not None and (of is None or record.inputs["policy"] in of)


def finished(cell: Cell) -> bool:
    """Whether nothing of the cell is left to do; an evaluation of a policy that is no longer there does not count."""
    return trained(cell.train) and evaluated(cell.eval, policies(cell.train).values())


def note_failure(folder: Path, stage: str, message: str) -> None:
    """Leave the last words of an attempt in its folder."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"stage": stage, "message": message, "when": when}
    records.write_atomic(folder / _FAILED, json.dumps(told) + "\n")


def forget_failure(folder: Path) -> None:
    """A new attempt begins."""
    (folder / _FAILED).unlink(missing_ok=True)


def last_failure(folder: Path) -> dict[str, str] | None:
    """``stage``, ``message`` and ``when`` of the last attempt, if it failed."""
    file = folder / _FAILED
    found: dict[str, str] | None = json.loads(file.read_text()) if file.is_file() else None
    return found


def state_of(cell: Cell) -> State:
    if records.held(cell.folder):
        return "running"
    if finished(cell):
        return "finished"
    if last_failure(cell.folder) is not None:
        return "failed"
    return "stopped" if cell.folder.is_dir() else "missing"


def lines(file: Path) -> int:
    """Whole lines of a JSON-lines file (0 without one)."""
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def steps_done(train: TrainConfig) -> int:
    """Logged optimizer steps; what came after the last checkpoint is trained again when a run goes on."""
    return train.steps if trained(train) else min(train.steps, lines(train.out / "metrics.jsonl") * train.log_every)


def episodes_of(config: EvalConfig) -> int:
    """Episodes of an evaluation, those with controls included."""
    own, checks = config.episodes, config.control_episodes or config.episodes
    return len(config.tasks) * (own + checks * (len(config.controls) - 1))


def episodes_done(config: EvalConfig) -> int:
    return lines(config.out / "rows.jsonl")


def times_of(out: Path) -> dict[str, Any]:
    """When a run began and ended, and how long its last attempt took; {} before it has a record."""
    record = record_of(out)
    if record is None:
        return {}
    return {"started": record.started, "finished": record.finished, "wall_s": record.wall_s}
