"""``vlm4vla study simulate``: do the intervals cover, and the tests hold their level, where the truth is known?

Every cell of the grid makes up studies (``simulated``) and runs the product's own functions on them. A figure has a
band that it must lie in; ``outside`` lists the cells beyond it. There, ``beyond_chance``: three standard errors of the
simulation do not explain it; ``unsafe``: on the side that makes false claims; ``told``: the product itself warns of it.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from vlm4vla.study import misuse, retrained
from vlm4vla.study.figures import Figure, figure
from vlm4vla.study.power import Design
from vlm4vla.study.simulated import Arm, calibrate, draw, episode_variance, moments
from vlm4vla.study.simulated_checkpoints import Checkpoints
from vlm4vla.study.spread import spread
from vlm4vla.types import refuse

Say = Callable[[str], None]
LEVEL = 0.95
WHERE = ("kind", "benchmark", "rate", "retrain_sd", "ratio", "seeds", "arms", "difference")
CHUNK = 50  # studies at a time: they stay in the processor's cache


@dataclass(frozen=True)
class Grid:
    """What is crossed with what. ``ratios``: retrain variance of every other arm to the rest; SDs in rate units."""

    benchmarks: tuple[tuple[int, int], ...] = ((4, 24), (10, 50), (6, 20))
    seeds: tuple[int, ...] = (2, 3, 5)
    arms: tuple[int, ...] = (2, 4, 9)
    retrain_sds: tuple[float, ...] = (0.0, 0.03, 0.09)
    rates: tuple[float, ...] = (0.05, 0.5, 0.95)
    ratios: tuple[int, ...] = (1, 2)

    def settings(self) -> Iterator["Setting"]:
        for (tasks, starts), rate, sd, ratio in product(self.benchmarks, self.rates, self.retrain_sds, self.ratios):
            if sd > 0 or ratio == self.ratios[0]:
                yield Setting(tasks, starts, rate, sd, ratio)


QUICK = Grid(benchmarks=((4, 24),), seeds=(2, 3), arms=(2, 4), ratios=(1,))


@dataclass(frozen=True)
class Setting:
    """A benchmark and a truth; seeds and arms are subsets of the same studies."""

    tasks: int
    starts: int
    rate: float
    retrain_sd: float
    ratio: int

    def arms(self, count: int) -> list[Arm]:
        """Even arms vary more where ``ratio`` is above 1; the mean of the two variances is that of the setting."""
        large = self.retrain_sd * (2 * self.ratio / (1 + self.ratio)) ** 0.5
        small = self.retrain_sd * (2 / (1 + self.ratio)) ** 0.5
        pair = [calibrate(self.rate, sd, self.tasks) for sd in (large, small)]
        return [pair[k % 2] for k in range(count)]

    def words(self) -> dict[str, Any]:
        return {"benchmark": f"{self.tasks}x{self.starts}", **asdict(self)}


def simulate(studies: int, seed: int, grid: Grid, say: Say) -> dict[str, Any]:
    """The whole grid. ``ok``: no figure beyond chance on the side of false claims, unless the product warns of it."""
    if studies < 2:
        raise refuse(
            f"{studies} studies per cell say nothing",
            possible="two or more; 2000 give standard errors of half a point",
            todo="Give --studies a larger number.",
        )
    began = time.monotonic()
    settings = list(grid.settings())
    cells: list[dict[str, Any]] = []
    for number, setting in enumerate(settings):
        say(f"[{number + 1}/{len(settings)}] {setting.words()['benchmark']}, rate {setting.rate:g}, "
            f"retrain SD {100 * setting.retrain_sd:g}, variances {setting.ratio}:1")  # fmt: skip
        cells += _setting(setting, grid, studies, np.random.default_rng([seed, number]))
    cells += [_power(*case, studies, np.random.default_rng([seed, 1000 + i])) for i, case in enumerate(POWER)]
    if grid != QUICK:
        uneven = list(product(UNEVEN, (3, 5, 10)))
        cells += [_uneven(*case, studies, np.random.default_rng([seed, 2000 + i])) for i, case in enumerate(uneven)]
    outside = [
        _where(cell) | f.words() | {"told": bool(cell.get("caution")) and f.name == "mean covered" and f.value < f.low}
        for cell in cells
        for f in cell["figures"]
        if f.outside
    ]
    return {
        "studies": studies,
        "seed": seed,
        "wall_s": round(time.monotonic() - began, 1),
        "ok": all(x["told"] or not x["unsafe"] for x in outside),
        "outside": outside,
        "summary": _summary(cells),
        "cells": [{**cell, "figures": [f.words() for f in cell["figures"]]} for cell in cells],
    }


def _where(cell: dict[str, Any]) -> dict[str, Any]:
    """What names a cell, without its figures."""
    return {name: cell[name] for name in WHERE if name in cell}


def _setting(setting: Setting, grid: Grid, studies: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    arms = setting.arms(max(grid.arms))
    designs = list(product(grid.seeds, grid.arms))
    found: dict[tuple[int, int], list[dict[str, np.ndarray[Any, Any]]]] = {d: [] for d in designs}
    wrong: dict[int, list[dict[str, np.ndarray[Any, Any]]]] = {n: [] for n in grid.seeds}
    checkpoints = Checkpoints(setting.tasks, setting.starts, LEVEL)
    for size in _chunks(studies):
        y, truth = draw(generator, size, arms, max(grid.seeds), setting.tasks, setting.starts)
        for seeds, count in designs:
            found[seeds, count].append(recipes_once(y[:, :count, :seeds], np.full(count, setting.rate)))
        for seeds in grid.seeds:
            wrong[seeds].append(misuse.once(y[:, :2, :seeds], generator, LEVEL))
        checkpoints.add(y, truth, equal=setting.retrain_sd == 0)
    cells = [_recipes_cell(setting, seeds, count, _joined(found[seeds, count])) for seeds, count in designs]
    cells.append({"kind": "checkpoints", **setting.words(), "figures": checkpoints.figures()})
    if setting.retrain_sd > 0:
        for seeds, parts in wrong.items():
            values = _joined(parts)
            figures = [figure(name, values[name], *misuse.BANDS[name]) for name in misuse.BANDS]
            cells.append({"kind": "wrong uses", **setting.words(), "seeds": seeds, "figures": figures})
    return cells


def recipes_once(y: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """E3 of made-up studies (studies, arms, seeds, tasks, starts), whose arms have the rates ``truth``."""
    s = spread([y[..., k, :] for k in range(y.shape[-2])])
    pairs = list(combinations(range(s.arms), 2))
    first, second = [i for i, _ in pairs], [j for _, j in pairs]
    found = retrained.differences(s, first, second)
    half = found.half_width(LEVEL)
    low, high = retrained.mean_interval(s, LEVEL)
    p = found.p_value()
    return {
        "difference": np.abs(found.value - (truth[first] - truth[second])) <= half,
        "mean": (low <= truth) & (truth <= high),
        # Where all arms are equal, Holm claims anything exactly when the smallest p passes its first step.
        "family": p.min(axis=1) * len(pairs) <= 1 - LEVEL,
        "half": half,
        "mean_width": high - low,
        "apart": retrained.apart(s, "rule"),
    }


def _recipes_cell(setting: Setting, seeds: int, arms: int, values: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    band = (0.92, 0.99) if seeds == 2 else (0.93, 0.985)
    return {
        "kind": "recipes",
        **setting.words(),
        "seeds": seeds,
        "arms": arms,
        "caution": retrained.at_the_edge(setting.rate, arms, seeds),
        "figures": [
            figure("difference covered", values["difference"], *band, "above"),
            figure("mean covered", values["mean"], *band, "above"),
            figure("family error", values["family"], 0.0, 0.055, "below"),
        ],
        "worst_pair": round(float(values["difference"].mean(axis=0).min()), 4),
        "worst_arm": round(float(values["mean"].mean(axis=0).min()), 4),
        "difference_half_width": round(float(values["half"].mean()), 4),
        "mean_half_width": round(float(values["mean_width"].mean()) / 2, 4),
        "variances_kept_apart": round(float(values["apart"].mean()), 4),
    }


POWER = ((2, 3, 0.14), (2, 5, 0.09), (4, 5, 0.08), (2, 10, 0.06), (2, 38, 0.03))
"""Arms, seeds and a difference that is found about four times in five at a retrain SD of 4 points."""


def _power(arms: int, seeds: int, difference: float, studies: int, generator: np.random.Generator) -> dict[str, Any]:
    """Two of the arms differ; how often it is found, beside the formula that `study power` uses."""
    tasks, starts, sd = 10, 50, 0.04
    ends = [calibrate(0.5 + sign * difference / 2, sd, tasks) for sign in (1, -1)]
    chosen = [ends[k % 2] for k in range(arms)]
    noise = float(np.mean([episode_variance(arm, tasks, starts) for arm in ends]))
    formula = Design(sd, arms, 1 - LEVEL, noise).power(seeds, difference)
    hits, covered = [], []
    for size in _chunks(studies):
        y, _ = draw(generator, size, chosen, seeds, tasks, starts)
        found = retrained.differences(spread([y[..., k, :] for k in range(tasks)]), [0], [1])
        hits.append(found.p_value() <= 1 - LEVEL)
        covered.append(np.abs(found.value - difference) <= found.half_width(LEVEL))
    return {
        "kind": "power",
        "benchmark": f"{tasks}x{starts}",
        "retrain_sd": sd,
        "seeds": seeds,
        "arms": arms,
        "difference": difference,
        "formula": round(formula, 4),
        "figures": [
            figure("power", np.concatenate(hits), formula - 0.03, formula + 0.03),
            figure("difference covered", np.concatenate(covered), 0.93, 0.985, "above"),
        ],
    }


UNEVEN = ("retrain SDs of 4 and 12 points", "rates of 4 to 90 %, alike in logits")
"""Nine arms that do not vary alike; shown, not judged. The worst pair is that whose arms vary most."""


def _uneven(case: str, seeds: int, studies: int, generator: np.random.Generator) -> dict[str, Any]:
    """What the rule for keeping variances apart sees, and what it costs where it sees nothing."""
    tasks, starts = 10, 50
    if case == UNEVEN[0]:
        arms = [calibrate(0.5, 0.12 if k % 2 else 0.04, tasks) for k in range(9)]
    else:
        # A retrain SD of 9 points at a rate of one half, the same on the logit scale at every other rate.
        retrain = calibrate(0.5, 0.09, tasks).retrain
        arms = [Arm(logit, retrain) for logit in np.linspace(-4.0, 3.0, 9)]
    truth = np.array([moments(arm, tasks)[0] for arm in arms])
    parts = []
    for size in _chunks(studies):
        y, _ = draw(generator, size, arms, seeds, tasks, starts)
        parts.append(recipes_once(y, truth))
    values = _joined(parts)
    pairs, means = values["difference"], values["mean"]
    worst = {
        "worst pair covered": pairs[:, pairs.mean(axis=0).argmin()],
        "worst mean covered": means[:, means.mean(axis=0).argmin()],
    }
    shown = {"difference covered": pairs, "mean covered": means, **worst, "variances kept apart": values["apart"]}
    return {
        "kind": f"uneven arms, {case}",
        "benchmark": f"{tasks}x{starts}",
        "seeds": seeds,
        "arms": len(arms),
        "figures": [figure(name, hits, 0.0, 1.0) for name, hits in shown.items()],
    }


def _chunks(studies: int) -> Iterator[int]:
    for start in range(0, studies, CHUNK):
        yield min(CHUNK, studies - start)


def _joined(parts: list[dict[str, np.ndarray[Any, Any]]]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per figure: number of cells, least and greatest value, how many lie outside."""
    by_name: dict[tuple[str, str], list[Figure]] = {}
    for cell in cells:
        for found in cell["figures"]:
            by_seeds = cell["kind"] == "recipes" or cell["kind"].startswith("uneven")
            group = f"{cell['kind']}, {cell['seeds']} seeds" if by_seeds else cell["kind"]
            by_name.setdefault((group, found.name), []).append(found)
    return [
        {
            "of": group,
            "figure": name,
            "cells": len(found),
            "least": round(min(f.value for f in found), 4),
            "mean": round(float(np.mean([f.value for f in found])), 4),
            "greatest": round(max(f.value for f in found), 4),
            "outside": sum(f.outside for f in found),
            "beyond_chance": sum(f.beyond_chance for f in found),
        }
        for (group, name), found in by_name.items()
    ]


def sentences(found: dict[str, Any]) -> list[str]:
    """The summary as a table of percentages, then every cell outside its band."""
    lines = [f"{'':80}{'cells':>6}{'least':>8}{'mean':>8}{'most':>8}{'outside':>9}{'beyond chance':>15}"]
    for x in found["summary"]:
        values = "".join(f"{100 * x[name]:8.1f}" for name in ("least", "mean", "greatest"))
        name = f"{x['of']}: {x['figure']}"
        lines.append(f"{name:80}{x['cells']:6}{values}{x['outside']:9}{x['beyond_chance']:15}")
    for x in found["outside"]:
        where = ", ".join(f"{k} {x[k]}" for k in WHERE if k in x)
        mark = "within chance" if not x["beyond_chance"] else "unsafe" if x["unsafe"] else "safe side"
        told = ", warned of" if x["told"] else ""
        lines.append(
            f"{where}: {x['name']} {100 * x['value']:.1f} (error {100 * x['error']:.1f}; band {100 * x['low']:.1f} to "
            f"{100 * x['high']:.1f}), {mark}{told}"
        )
    verdict = "No false claims beyond chance, but where a study is warned." if found["ok"] else "A band is missed."
    return [*lines, f"{verdict} {found['studies']} studies per cell, {found['wall_s']:.0f} s."]
