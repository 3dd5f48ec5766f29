"""Read and check a study folder: the only thing a report is made from.

    STUDY/study.json        what was asked, the arms, the references, and where their runs lie (relative to STUDY)
    STUDY/estimates.jsonl   Estimate        STUDY/comparisons.jsonl   Comparison        STUDY/audit.json   Audit
    train run: run.json, metrics.jsonl      evaluation run: run.json, rows.jsonl, videos/*.mp4

Everything but study.json and the evaluation runs may be absent. Counts, rates and differences are made again from the
rows they claim to summarise: one that its rows do not bear out is refused (``borne_out``). Intervals and p-values are
read as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, ValidationError

from vlm4vla.records import Comparison, EpisodeRow, Estimate, Measure, Record, RunRecord, read_all, read_one
from vlm4vla.report import borne_out
from vlm4vla.report.sentences import row_name, settled
from vlm4vla.types import refuse


class Arm(Record):
    """One checkpoint of an arm: folders relative to the study; ``run`` is null where nothing was trained.

    ``recipe`` is what the checkpoints of one arm share; null where there is one training run per arm.
    """

    name: str
    label: str
    recipe: str | None = None
    recipe_label: str | None = None
    run: str | None
    eval: str


class Reference(Record):
    """A builtin policy that gives the scale: do-nothing is the floor, expert the ceiling."""

    name: str
    label: str
    eval: str


class TunedArm(Record):
    """An arm's learning rates with their scores on dev starts, in the order of the factors, and the chosen factor."""

    arm: str
    rates: list[float]
    scores: list[float]
    chosen: float


class Flip(Record):
    """Two arms whose order depends on the rate: the factors at which either leads."""

    a: str
    b: str
    a_leads: list[float]
    b_leads: list[float]


class Tuning(Record):
    """The same grid of learning rates for every arm; ``episodes`` per task on dev starts."""

    factors: list[float]
    seed: int
    episodes: int
    arms: list[TunedArm]
    flips: list[Flip]


class StudyFile(Record):
    """study.json. ``instructions``: task to sentence; ``wall_s``: stage to seconds; ``estimate_s``: predicted total."""

    name: str
    title: str
    caveat: str
    factor: str
    benchmark: str
    tasks: list[str]
    instructions: dict[str, str]
    arms: list[Arm]
    references: list[Reference]
    tuning: Tuning | None = None
    command: str
    created: str
    wall_s: dict[str, float]
    estimate_s: float | None

    @property
    def entries(self) -> list[Arm | Reference]:
        """Everything that was evaluated, in the order of the table."""
        return [*self.references, *self.arms]


class AuditRow(Record):
    """One setting over all arms; ``allowed`` only matters where it ``differs``."""

    setting: str
    # the JSON key is fixed by the study's contract
    class_: Literal["must-equal", "may-differ", "declared"]
    values: dict[str, Any]
    differs: bool
    allowed: bool
    reason: str | None

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda name: name.rstrip("_"), validate_by_alias=True
    )


class Audit(Record):
    """audit.json: what differs between the arms beside the declared factor."""

    factor: str
    rows: list[AuditRow]
    ok: bool
    faults: tuple[str, ...] = ()


class Metric(Record):
    """One line of metrics.jsonl; other keys of the trainer are kept out of the report."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int
    samples: int | None = None
    loss: float | None = None
    arm_loss: float | None = None
    gripper_loss: float | None = None
    grad_norm: float | None = None
    lr: float | None = None
    samples_per_s: float | None = None
    data_wait: float | None = None
    wall_s: float | None = None


@dataclass(frozen=True)
class TableRow:
    """A row of the main table: a reference, an arm, or an arm under an evaluation-only control."""

    kind: Literal["reference", "arm", "control"]
    arm: str
    control: str | None
    label: str
    folder: Path
    run: RunRecord
    rows: tuple[EpisodeRow, ...]
    estimates: dict[str | None, Estimate]
    in_a_row: tuple[Estimate, ...] = ()
    """Of chains: the rates of 1, 2, ... subtasks in a row."""

    @property
    def name(self) -> str:
        return row_name(self.arm, self.control)


@dataclass(frozen=True)
class Training:
    """The training run of an arm; ``run`` null where nothing was trained."""

    arm: Arm
    run: RunRecord | None
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class Study:
    """All records of a study, checked against each other."""

    file: StudyFile
    recipes: tuple[Estimate, ...]
    table: tuple[TableRow, ...]
    comparisons: tuple[Comparison, ...]
    training: tuple[Training, ...]
    audit: Audit | None

    @property
    def measure(self) -> Measure:
        """What the numbers sum up: the same in all rows, since their tasks are the same."""
        return next((e.measure for row in self.table for e in row.estimates.values()), "success")

    @cached_property
    def labels(self) -> dict[str, str]:
        """Row or recipe name to printed label, as comparisons name their sides."""
        recipes = {a.recipe: settled(a.recipe_label or a.recipe) for a in self.file.arms if a.recipe is not None}
        return recipes | {row.name: row.label for row in self.table}

    @cached_property
    def lines(self) -> dict[str, TableRow]:
        """The rows of the table by name."""
        return {row.name: row for row in self.table}

    def sides(self, comparison: Comparison) -> tuple[str, str]:
        """Labels of both sides; a policy against its own control: ``Full fine-tuning``, ``same with image-blank``."""
        a, b = comparison.a, comparison.b
        own = b in self.lines and self.lines[b].arm == a and self.lines[b].control is not None
        second = f"same with {self.lines[b].control}" if own else self.labels.get(b, b)
        return self.labels.get(a, a), second

    def title(self, comparison: Comparison) -> str:
        """``Full fine-tuning − Vision frozen``."""
        return " − ".join(self.sides(comparison))


R = TypeVar("R", bound=Record)


def load(folder: Path) -> Study:
    """Read a study; raises a four-part error for a missing, torn or contradictory record."""
    file = _document(folder / "study.json", StudyFile)
    estimates = read_all(folder / "estimates.jsonl", Estimate)
    for estimate in estimates:
        if estimate.benchmark != file.benchmark:
            raise refuse(
                f"An estimate of {estimate.arm!r} is about {estimate.benchmark}, the study about {file.benchmark}",
                possible="one benchmark id with one version per study",
                todo="Run the study again on one version; two versions are never pooled.",
            )
    table: list[TableRow] = []
    of_line: dict[tuple[str, str | None], list[Estimate]] = {}
    for estimate in estimates:
        if estimate.estimand != "E3":
            of_line.setdefault((estimate.arm, estimate.control), []).append(estimate)
    for entry in file.entries:
        table += _table_rows(folder, entry, of_line)
    audit = _document(folder / "audit.json", Audit) if (folder / "audit.json").is_file() else None
    return Study(
        file=file,
        recipes=tuple(_recipes(file, estimates, table)),
        table=tuple(table),
        comparisons=tuple(_comparisons(folder, file, table)),
        training=tuple(_training(folder, arm) for arm in file.arms),
        audit=audit,
    )


def _recipes(file: StudyFile, estimates: Sequence[Estimate], table: Sequence[TableRow]) -> list[Estimate]:
    """The recipes' estimates, each borne out by the rows of all its checkpoints."""
    found = [e for e in estimates if e.estimand == "E3"]
    for estimate in found:
        own = _rows_of_recipe(file, estimate.arm, table)
        borne_out.estimate(estimate, own, estimate.arm)
    return found


def _rows_of_recipe(file: StudyFile, recipe: str, table: Sequence[TableRow]) -> list[EpisodeRow]:
    names = {arm.name for arm in file.arms if arm.recipe == recipe}
    return [r for row in table if row.kind == "arm" and row.arm in names for r in row.rows]


def _comparisons(folder: Path, file: StudyFile, table: Sequence[TableRow]) -> list[Comparison]:
    """The recorded differences, each borne out by the rows of its two sides."""
    found = read_all(folder / "comparisons.jsonl", Comparison)
    lines: dict[str, Sequence[EpisodeRow]] = {row.name: row.rows for row in table}
    recipes = {
        name: _rows_of_recipe(file, name, table)
        for name in {side for c in found if c.estimand == "E3" for side in (c.a, c.b)}
    }
    for c in found:
        of = recipes if c.estimand == "E3" else lines
        borne_out.difference(c, of.get(c.a, ()), of.get(c.b, ()))
    return found


def _document(path: Path, cls: type[R]) -> R:
    if not path.is_file():
        raise refuse(
            f"No {path.name} in {path.parent}",
            possible="the folder that `vlm4vla study run` wrote",
            todo="Give a study's folder, or finish the study first with `vlm4vla study run`.",
        )
    try:
        return cls.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise refuse(
            f"{path} is not valid: {first['msg']} at {'.'.join(map(str, first['loc'])) or 'the top'}",
            possible=sorted(cls.model_fields),
            todo="Write it again with `vlm4vla study run`; finished cells are not repeated.",
        ) from error


def run_folder(study: Path, relative: str) -> Path:
    """A run's folder; absolute ones are refused, since a study must survive being copied elsewhere."""
    if Path(relative).is_absolute():
        raise refuse(
            f"Run folder {relative!r} is absolute",
            possible="a path relative to the study folder",
            todo="Keep the runs inside the study folder.",
        )
    return study / relative


def _table_rows(
    study: Path, entry: Arm | Reference, estimates: Mapping[tuple[str, str | None], Sequence[Estimate]]
) -> list[TableRow]:
    """The plain row first, then one row per control, in the order in which they were evaluated."""
    folder = run_folder(study, entry.eval)
    run = read_one(folder / "run.json", RunRecord)
    rows = read_all(folder / "rows.jsonl", EpisodeRow)
    if not rows or any(row.arm != entry.name for row in rows):
        raise refuse(
            f"{folder} does not hold the rows of {entry.name!r} (found: {sorted({row.arm for row in rows})})",
            possible="an evaluation folder whose rows.jsonl names this arm",
            todo="Correct the folder in study.json, or run the evaluation.",
        )
    out: list[TableRow] = []
    for control in sorted({row.control for row in rows}, key=lambda c: (c is not None, c or "")):
        own = tuple(row for row in rows if row.control == control)
        key = (entry.name, control)
        of_line = estimates.get(key, ())
        for estimate in of_line:
            borne_out.estimate(estimate, [row for row in own if estimate.task in (None, row.task)], entry.name)
        kind: Literal["reference", "arm", "control"] = "arm" if isinstance(entry, Arm) else "reference"
        label = settled(entry.label) if control is None else f"{settled(entry.label)} ({settled(control)})"
        out.append(
            TableRow(
                kind=kind if control is None else "control",
                arm=entry.name,
                control=control,
                label=label,
                folder=folder,
                run=run,
                rows=own,
                estimates={e.task: e for e in of_line if e.in_a_row is None},
                in_a_row=tuple(e for e in of_line if e.in_a_row is not None),
            )
        )
    return out


def _training(study: Path, arm: Arm) -> Training:
    if arm.run is None:
        return Training(arm, None, ())
    folder = run_folder(study, arm.run)
    return Training(arm, read_one(folder / "run.json", RunRecord), tuple(read_all(folder / "metrics.jsonl", Metric)))
