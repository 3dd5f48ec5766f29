"""The paper's published numbers as data: ``paper/*.json``, read strictly, every number with its source.

A number is kept as the digits that were printed, since they say how it was rounded. ``recover`` finds the count of
successes behind a printed rate where there is one. Nothing here is measured by this software.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vlm4vla.config import Config, validate
from vlm4vla.types import refuse

FOLDER = Path(__file__).parent / "paper"
TABLES = (
    "main", "freezing", "scratch", "auxiliary", "fast", "scores", "correlation", "reproduction", "independent",
    "agreement",
)  # fmt: skip

Kind = Literal["exact", "digitised", "recovered"]
"""``exact``: printed digits. ``digitised``: read off a figure. ``recovered``: inferred from other published numbers."""

Version = Literal["arXiv v1 and v2", "OpenReview", "not stated", "not the paper"]
Unit = Literal["billion parameters", "subtasks in a row", "percent", "rate", "normalised score", "correlation"]
Averaging = Literal["count", "quarter", "cut", "unexplained"]
"""``count``: successes / trials, rounded. ``quarter``: the mean of the tasks' rates, each rounded to whole percent
first. ``cut``: successes / trials, cut off after two decimals. ``unexplained``: none of these."""

Digits = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$")]
Change = Annotated[str, Field(pattern=r"^[+-]\d+(\.\d+)?$")]
Words = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Trials = Annotated[int, Field(gt=0)]


class Source(Config):
    """Where a number was read. ``standing``: who says so."""

    title: Words
    standing: Literal["authors", "second hand", "second hand, doubtful", "independent", "ours"]


class Column(Config):
    """``trials``: episodes behind each number; ``strata``: how they fall into tasks. ``delta``: show differences.

    ``standard_error``: of one value, where no count gives it; ``error_note`` says where it comes from.
    """

    key: Words
    label: Words
    unit: Unit
    trials: Trials | None = None
    strata: tuple[Trials, ...] = ()
    limits: tuple[float, float] | None = None
    standard_error: Positive | None = None
    error_note: str = ""
    delta: bool = False

    @model_validator(mode="after")
    def _agree(self) -> "Column":
        if self.strata and sum(self.strata) != self.trials:
            raise ValueError(f"column {self.key!r}: strata add up to {sum(self.strata)}, trials are {self.trials}")
        if (self.standard_error is None) == bool(self.error_note):
            raise ValueError(f"column {self.key!r}: a standard error and a note on its origin belong together")
        return self


class Cell(Config):
    """One printed number; what is null holds for the whole row or table.

    ``exactly``: the same number with more digits, from another table. ``delta``: the difference as printed beside it.
    """

    printed: Digits
    exactly: Digits | None = None
    delta: Change | None = None
    trials: Trials | None = None
    strata: tuple[Trials, ...] | None = None
    kind: Kind | None = None
    error: Positive | None = None
    source: str | None = None
    place: str | None = None
    version: Version | None = None
    note: str = ""


class Row(Config):
    """``baseline``: key of the row that differences are taken against. ``family``: of the VLM."""

    key: Words
    label: Words
    group: str = ""
    family: str | None = None
    baseline: str | None = None
    source: str | None = None
    place: str | None = None
    version: Version | None = None
    cells: dict[str, Cell]

    @field_validator("cells", mode="before")
    @classmethod
    def _digits_alone(cls, cells: Any) -> Any:
        if not isinstance(cells, Mapping):
            return cells
        return {key: {"printed": cell} if isinstance(cell, str) else cell for key, cell in cells.items()}


@dataclass(frozen=True)
class Number:
    """A cell with everything that holds for it. ``successes`` null where no count was recovered."""

    printed: str
    value: float
    unit: Unit
    kind: Kind
    error: float | None
    source: str
    place: str
    version: Version
    trials: int | None
    successes: int | None
    averaging: Averaging | None
    delta: str | None
    note: str


class Table(Config):
    """A table of the paper, or of an independent source beside it. ``error``: of every digitised number in it."""

    title: Words
    caption: Words
    n: Words
    seeds: Words
    estimand: Words
    place: Words
    version: Version
    source: Words
    kind: Kind
    error: Positive | None = None
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _agree(self) -> "Table":
        for what, keys in (("column", [c.key for c in self.columns]), ("row", [r.key for r in self.rows])):
            if len(set(keys)) < len(keys):
                raise ValueError(
                    f"a {what} is there twice: {', '.join(sorted({k for k in keys if keys.count(k) > 1}))}"
                )
        for row in self.rows:
            if unknown := row.cells.keys() - {c.key for c in self.columns}:
                raise ValueError(f"row {row.key!r} has cells of unknown columns: {', '.join(sorted(unknown))}")
            if row.baseline is not None and self.row(row.baseline).baseline is not None:
                raise ValueError(f"the baseline of row {row.key!r} has a baseline itself")
            for key, cell in row.cells.items():
                kind, error = cell.kind or self.kind, cell.error or (None if cell.kind else self.error)
                if (kind == "exact") != (error is None):
                    raise ValueError(f"row {row.key!r}, column {key!r}: {kind} with an error of {error}")
                if cell.exactly is not None and not _rounds_to(Decimal(cell.exactly), cell.printed):
                    raise ValueError(f"row {row.key!r}, column {key!r}: {cell.exactly} is not {cell.printed}")
                if cell.delta is not None and row.baseline is None:
                    raise ValueError(f"row {row.key!r}, column {key!r}: a difference without a baseline")
        return self

    def row(self, key: str) -> Row:
        for row in self.rows:
            if row.key == key:
                return row
        raise ValueError(f"there is no row {key!r}")

    def column(self, key: str) -> Column:
        return next(c for c in self.columns if c.key == key)

    def number(self, row: Row, column: Column) -> Number | None:
        """The number of a row and column with its source, and with its count where one is behind it."""
        cell = row.cells.get(column.key)
        if cell is None:
            return None
        trials = cell.trials or column.trials
        strata = column.strata if cell.strata is None else cell.strata
        found: tuple[int | None, Averaging | None] = (None, None)
        if trials is not None:
            scale = 100 if column.unit == "percent" else 1
            found = recover(cell.exactly or cell.printed, trials, strata=strata, scale=scale)
        kind = cell.kind or self.kind
        return Number(
            printed=cell.printed,
            value=float(cell.printed),
            unit=column.unit,
            kind=kind,
            error=None if kind == "exact" else cell.error or self.error,
            source=cell.source or row.source or self.source,
            place=cell.place or row.place or self.place,
            version=cell.version or row.version or self.version,
            trials=trials,
            successes=found[0],
            averaging=found[1],
            delta=cell.delta,
            note=cell.note,
        )

    def numbers(self) -> Iterator[tuple[Row, Column, Number]]:
        for row in self.rows:
            for column in self.columns:
                if (number := self.number(row, column)) is not None:
                    yield row, column, number


def load(name: str, folder: Path = FOLDER) -> Table:
    """A table by name (``TABLES``); refuses an unknown name, a fault in the file or a source that is not listed."""
    if name not in TABLES:
        raise refuse(
            f"No published table {name!r}", given=name, possible=TABLES, todo="Choose one of the tables listed."
        )
    file = folder / f"{name}.json"
    table = validate(Table, json.loads(file.read_text(encoding="utf-8")), source=file.name)
    known = sources(folder)
    for row, column, number in table.numbers():
        if number.source not in known:
            raise refuse(
                f"{file.name}, row {row.key!r}, column {column.key!r}: unknown source {number.source!r}",
                given=number.source,
                possible=sorted(known),
                todo="Name a source of sources.json, or add it there.",
            )
    return table


def sources(folder: Path = FOLDER) -> dict[str, Source]:
    """Where the numbers were read, by key."""
    plain: dict[str, Any] = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
    return {key: validate(Source, value, source=f"sources.json, {key}") for key, value in plain.items()}


@cache
def recover(
    printed: str, trials: int, *, strata: tuple[int, ...] = (), scale: int = 100
) -> tuple[int | None, Averaging]:
    """The count of successes behind a printed rate (``scale`` 100: percent, 1: a fraction), and how it was averaged.

    A mean of whole percentages and a cut number are looked for only among percentages printed with two decimals: with
    one decimal, two in five of all numbers would pass as a mean of four.
    """
    value = Decimal(printed)
    near = int(value * trials / scale)
    candidates = range(max(near - 2, 0), min(near + 3, trials) + 1)
    for k in candidates:
        if _rounds_to(Decimal(scale * k) / trials, printed):
            return k, "count"
    if scale == 100 and -int(value.as_tuple().exponent) >= 2:
        for k in candidates:
            if strata and _mean_of_whole_percentages(value, k, strata):
                return k, "quarter"
            if (Decimal(100 * k) / trials).quantize(value, ROUND_DOWN) == value:
                return k, "cut"
    return None, "unexplained"


def _rounds_to(value: Decimal, printed: str) -> bool:
    return value.quantize(Decimal(printed), ROUND_HALF_UP) == Decimal(printed)


def _mean_of_whole_percentages(value: Decimal, successes: int, strata: tuple[int, ...]) -> bool:
    """Whether ``successes`` can fall on the strata so that their rounded percentages have the mean ``value``."""
    sums: dict[int, set[int]] = {0: {0}}  # successes so far -> sums of percentages
    for n in strata:
        following: dict[int, set[int]] = {}
        for k in range(n + 1):
            whole = int((Decimal(100 * k) / n).quantize(Decimal(1), ROUND_HALF_UP))
            for so_far, held in sums.items():
                if so_far + k <= successes:
                    following.setdefault(so_far + k, set()).update(total + whole for total in held)
        sums = following
    return any(Decimal(total) / len(strata) == value for total in sums.get(successes, ()))
