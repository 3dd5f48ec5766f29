"""``appendix.json``: what figures for print need beyond estimates and comparisons. Studies compute it, reports read it.

Rates are in rate units (0.04 = 4 points), of chains in subtasks solved in a row. ``arm`` names a recipe; with one
training run per arm it is the arm itself.
"""

from typing import Literal

from vlm4vla.records import Estimate, Record

FILE = "appendix.json"


class VariancePart(Record):
    """One source of the spread of success, as a standard deviation with its limits; ``share`` of all: null where it is
    made of other parts."""

    source: str
    sd: float
    low: float
    high: float
    level: float
    df: int
    share: float | None


class PowerLine(Record):
    """Chance that a true difference is found: (difference, power) with ``seeds`` training runs per arm."""

    seeds: int
    retrain_sd: float
    points: tuple[tuple[float, float], ...]
    detectable: float
    """The smallest difference that is found with 80 % power; may exceed 1."""


class Power(Record):
    """Power of this study's design. ``measured``: the retrain SD is the study's own, with limits; otherwise assumed.

    ``lines``: at ``retrain_sd``, one per number of seeds. ``limits``: the study's own seeds at the limits of the SD.
    ``noise_variance``: what the evaluation adds to the variance of one run's number; ``noise`` says how it was found.
    """

    measured: bool
    retrain_sd: float
    low: float | None
    high: float | None
    level: float
    arms: int
    comparisons: int
    alpha: float
    episodes: int
    noise_variance: float
    noise: str
    seeds: int
    lines: tuple[PowerLine, ...]
    limits: tuple[PowerLine, ...]


class Tried(Record):
    """A checkpoint with an executed horizon, tried before the evaluation. ``scores``: one per training run, in their
    order; ``mean`` of them. Limits are null where none can be given, ``method`` says how they were made or why not."""

    arm: str
    on: Literal["dev", "eval"]
    step: int
    execute: int
    runs: tuple[str, ...]
    scores: tuple[float, ...]
    chosen: tuple[bool, ...]
    chains: bool
    episodes: int
    mean: float
    low: float | None
    high: float | None
    level: float
    method: str
    estimand: Literal["E2", "E3"]


class Appendix(Record):
    """``tasks``: rate of every recipe on every single task: E3, or E2 where there is one training run per arm.

    ``chains``: E3 of the rates of 1, 2, ... subtasks in a row; those of checkpoints (E2) are estimates of the study.
    """

    tasks: tuple[Estimate, ...] = ()
    variance: tuple[VariancePart, ...] = ()
    power: Power | None = None
    chains: tuple[Estimate, ...] = ()
    tried: tuple[Tried, ...] = ()
