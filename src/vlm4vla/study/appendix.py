"""What figures for print need beyond estimates and comparisons: per task, sources of spread, power, chains, candidates.

Written as ``appendix.json``; the report draws it and computes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from scipy import stats

from vlm4vla import records, registry
from vlm4vla.records import EpisodeRow, Estimate
from vlm4vla.report.paper.record import Appendix, Power, PowerLine, Tried, VariancePart
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import compare, selection
from vlm4vla.study.cells import Cell
from vlm4vla.study.chains import told
from vlm4vla.study.power import RETRAIN_SD, Design
from vlm4vla.study.recipes import Runs
from vlm4vla.study.retrained import Variances, recipes
from vlm4vla.study.successes import successes
from vlm4vla.study.variance import split
from vlm4vla.types import Benchmark

LEVEL = 0.95
SEEDS = (2, 3, 5, 10, 20)
"""Numbers of training runs that the power curve shows beside the study's own."""
_POINTS = 60


def appendix(config: StudyConfig, found: Sequence[Cell], rows: Sequence[EpisodeRow]) -> Appendix:
    """``found``: the study's finished cells; ``rows``: all rows of its evaluations."""
    runs: dict[str, list[list[EpisodeRow]]] = {}
    for cell in found:
        own = [row for row in rows if row.arm == cell.name and row.control is None]
        runs.setdefault(cell.arm, []).append(own)
    parts = variance(runs)
    return Appendix(
        tasks=tuple(per_task(runs, config.variances)),
        variance=tuple(parts),
        power=power(runs, parts),
        chains=tuple(in_a_row(runs, config.variances)),
        tried=tuple(_tried(config, found)),
    )


def per_task(runs: Runs, variances: Variances = "rule") -> list[Estimate]:
    """Every recipe on every task: E3 with several training runs, else the E2 of the one checkpoint under its arm.

    [] of chains: their one task is the whole.
    """
    if _chained(runs):
        return []
    if _seeds(runs) == 1:
        single = [(arm, e) for arm, (own,) in runs.items() for e in compare.estimates(own) if e.task is not None]
        return [e.model_copy(update={"arm": arm}) for arm, e in single]
    out: list[Estimate] = []
    tasks = dict.fromkeys(row.task for own in runs.values() for rows in own for row in rows)
    for task in tasks:
        here = {arm: [[r for r in rows if r.task == task] for rows in own] for arm, own in runs.items()}
        out += _retrained(here, variances, {"task": task})
    return out


def in_a_row(runs: Runs, variances: Variances = "rule") -> list[Estimate]:
    """E3 of the rates of 1, 2, ... subtasks in a row; [] of single tasks and with one training run per arm."""
    if not _chained(runs) or _seeds(runs) == 1:
        return []
    first = next(iter(runs.values()))[0][0]
    longest = max(row.subtasks or 0 for own in runs.values() for rows in own for row in rows)
    out: list[Estimate] = []
    for least in range(1, longest + 1):
        here = {
            arm: [
                [r.model_copy(update={"success": (r.completed or 0) >= least, "completed": None}) for r in rows]
                for rows in own
            ]
            for arm, own in runs.items()
        }
        out += _retrained(here, variances, {"task": first.task, "in_a_row": least, "longest": longest})
    return out


def _retrained(runs: Runs, variances: Variances, changes: Mapping[str, object]) -> list[Estimate]:
    """E3 of the success of these rows."""
    table = successes(runs)
    counts = {arm: [row.success for rows in own for row in rows] for arm, own in runs.items()}
    return [
        Estimate(
            arm=r.arm, control=None, benchmark=table.benchmark, task=None, episodes=len(counts[r.arm]),
            successes=sum(counts[r.arm]), rate=r.value, low=r.low, high=r.high, level=r.level, method=r.method,
            estimand="E3", seeds=table.seeds, caution=r.caution, standard_error=r.standard_error,
        ).model_copy(update=dict(changes))
        for r in recipes(table, level=LEVEL, variances=variances)
    ]  # fmt: skip


def variance(runs: Runs) -> list[VariancePart]:
    """Sources of the spread; [] with one training run per arm, which shows nothing of training again."""
    if _seeds(runs) == 1:
        return []
    table = successes(runs)
    parts = [VariancePart(**asdict(part)) for part in split(table, level=LEVEL)]
    return [
        p.model_copy(update={"sd": p.sd * table.unit, "low": p.low * table.unit, "high": p.high * table.unit})
        for p in parts
    ]


def power(runs: Runs, parts: Sequence[VariancePart]) -> Power | None:
    """Of a comparison of two of the study's arms at the retrain SD that it measured, else at the SD usually assumed.

    Alpha is that of Holm's first step over all pairs. Null with one arm, and where nothing varies at all.
    """
    arms, own = len(runs), _seeds(runs)
    if arms < 2:
        return None
    unit = max((row.subtasks or 1 for rows in runs.values() for row in rows[0]), default=1)
    noise, words = _noise(runs)
    measured = next((part for part in parts if part.source == "retrain"), None)
    sd = RETRAIN_SD * unit if measured is None else measured.sd
    if sd == 0 == noise:
        return None
    alpha = (1 - LEVEL) / (arms * (arms - 1) // 2)

    def line(seeds: int, retrain_sd: float, reach: float | None = None) -> PowerLine:
        design = Design(min(retrain_sd / unit, 0.5), arms, alpha, noise / unit**2)
        detectable = unit * design.detectable(seeds)
        end = min(reach or 1.5 * detectable, unit)
        differences = [end * i / _POINTS for i in range(_POINTS + 1)]
        points = tuple((d, design.power(seeds, d / unit)) for d in differences)
        return PowerLine(seeds=seeds, retrain_sd=retrain_sd, points=points, detectable=detectable)

    reach = line(own if own > 1 else 3, sd).points[-1][0]
    limits = [] if measured is None else [x for x in (measured.low, measured.high) if x > 0 or noise > 0]
    return Power(
        measured=measured is not None,
        retrain_sd=sd,
        low=None if measured is None else measured.low,
        high=None if measured is None else measured.high,
        level=LEVEL,
        arms=arms,
        comparisons=arms * (arms - 1) // 2,
        alpha=alpha,
        episodes=len(next(iter(runs.values()))[0]),
        noise_variance=noise,
        noise=words,
        seeds=own,
        lines=tuple(line(seeds, sd, reach) for seeds in sorted({*SEEDS, *([own] if own > 1 else [])})),
        limits=tuple(line(own, x, reach) for x in limits),
    )


def _noise(runs: Runs) -> tuple[float, str]:
    """What the evaluation adds to the variance of one run's number, averaged over the arms; how it was found."""
    if _chained(runs):
        every = [e for own in runs.values() for rows in own for e in compare.estimates(rows) if e.task is None]
        z = float(stats.norm.ppf((1 + LEVEL) / 2))
        found = sum(((e.high - e.low) / 2 / z) ** 2 for e in every) / len(every)
        return found, "counted as the checkpoints' own intervals (E2) have it"
    rates = [sum(row.success for rows in own for row in rows) / sum(map(len, own)) for own in runs.values()]
    episodes = len(next(iter(runs.values()))[0])
    return sum(p * (1 - p) for p in rates) / len(rates) / episodes, "counted as p(1 − p)/n, an upper bound"


def _tried(config: StudyConfig, found: Sequence[Cell]) -> list[Tried]:
    """What was tried before the evaluation, place by place: a candidate of one arm with the same of the others."""
    chosen = {cell.name: selection.selection(cell) for cell in found}
    if any(made is None for made in chosen.values()):
        return []
    bench: Benchmark = registry.find("bench", config.bench).Benchmark()
    out: list[Tried] = []
    for place in range(len(selection.candidates(found[0]))):
        runs: dict[str, list[list[EpisodeRow]]] = {}
        cells: dict[str, list[Cell]] = {}
        for cell in found:
            tried = selection.candidates(cell)[place]
            rows = told(records.read_all(tried.out / "rows.jsonl", EpisodeRow), bench, tried.split)
            runs.setdefault(cell.arm, []).append(rows)
            cells.setdefault(cell.arm, []).append(cell)
        limits = interval_of_scores(runs, config.variances)
        for arm, own in runs.items():
            first = chosen[cells[arm][0].name]
            assert first is not None
            candidate = first.candidates[place]
            scores = tuple(selection.score(rows) for rows in own)
            low, high, method = limits[arm]
            picked = [chosen[cell.name] for cell in cells[arm]]
            out.append(
                Tried(
                    arm=arm, on=first.on, step=candidate.step, execute=candidate.execute,
                    runs=tuple(cell.name for cell in cells[arm]), scores=scores,
                    chosen=tuple(p is not None and p.chosen == p.candidates[place] for p in picked),
                    chains=all(row.completed is not None for rows in own for row in rows),
                    episodes=sum(map(len, own)), mean=sum(scores) / len(scores), low=low, high=high, level=LEVEL,
                    method=method, estimand="E2" if len(own) == 1 else "E3",
                )
            )  # fmt: skip
    return out


def interval_of_scores(
    runs: Runs, variances: Variances = "rule"
) -> Mapping[str, tuple[float | None, float | None, str]]:
    """Arm -> limits of its mean score, with their method; none with one start of a task."""
    if _seeds(runs) == 1:
        means = {arm: next(e for e in compare.estimates(own) if e.task is None) for arm, (own,) in runs.items()}
        return {arm: (e.low, e.high, e.method) for arm, e in means.items()}
    table = successes(runs)
    if min(y.shape[-1] for y in table.outcomes) < 2:
        return dict.fromkeys(runs, (None, None, "no interval: one start of a task says nothing about others"))
    return {r.arm: (r.low, r.high, r.method) for r in recipes(table, level=LEVEL, variances=variances)}


def _seeds(runs: Runs) -> int:
    return len(next(iter(runs.values())))


def _chained(runs: Runs) -> bool:
    return next(iter(runs.values()))[0][0].completed is not None
