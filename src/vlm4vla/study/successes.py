"""From episode rows to arrays of outcomes: the same starts for every checkpoint, or a refusal that says why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlm4vla.records import EpisodeRow, Measure
from vlm4vla.study.chains import measure_of, per_state
from vlm4vla.types import refuse

Start = tuple[str, int]  # task, episode


@dataclass(frozen=True)
class Successes:
    """Outcomes of a study on one benchmark: ``outcomes`` has per task an array (arms, training seeds, starts).

    Chains have initial states in place of starts (``episodes`` is then the number of chains of one run), and numbers in
    place of outcomes: subtasks solved in a row as a share of ``longest``, by ``chains.per_state``.
    """

    benchmark: str
    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    outcomes: tuple[npt.NDArray[np.bool_] | npt.NDArray[np.float64], ...]
    longest: int | None = None
    episodes: int | None = None

    @property
    def seeds(self) -> int:
        return int(self.outcomes[0].shape[1])

    @property
    def measure(self) -> Measure:
        return "success" if self.longest is None else "completed"

    @property
    def unit(self) -> int:
        """What one unit of ``outcomes`` is in the numbers that are told: subtasks of a chain, or 1 (a rate)."""
        return self.longest or 1


def successes(arms: Mapping[str, Sequence[Sequence[EpisodeRow]]]) -> Successes:
    """The table of a study. ``arms``: name of the arm -> the rows of each of its training runs.

    Starts are matched by task and episode; the order of the rows and of the runs means nothing. Refuses: an arm without
    runs, a run counted twice, unequal numbers of runs, other starts than the first run's, chains beside other tasks.
    """
    if not arms:
        raise refuse("There are no arms to estimate from", todo="Give the rows of at least one arm.")
    counts = {arm: len(runs) for arm, runs in arms.items()}
    if min(counts.values()) == 0 or len(set(counts.values())) > 1:
        raise refuse(
            "The arms have " + ", ".join(f"{n} training runs ({arm})" for arm, n in counts.items()),
            possible="the same number of training runs in every arm, at least one",
            todo="Train the missing seeds, or leave the arm out.",
        )
    tables: list[dict[Start, EpisodeRow]] = []
    names: dict[str, str] = {}
    for arm, runs in arms.items():
        for number, rows in enumerate(runs):
            name = f"{arm}, run {number + 1}"
            table = by_start(rows, name)
            run = rows[0].run
            if run in names:
                raise refuse(
                    f"{name!r} and {names[run]!r} are the same training run, {run}",
                    possible="one list of rows per training run",
                    todo="Give each run once: a copy is no further seed.",
                )
            names[run] = name
            tables.append(table)
    first = next(iter(names.values()))
    starts = sorted(tables[0])
    for table, name in zip(tables[1:], list(names.values())[1:], strict=True):
        starts = common_starts(tables[0], table, first, name)
    tasks = tuple(dict.fromkeys(task for task, _ in starts))
    one = tables[0][starts[0]]
    measure = measure_of([row for table in tables for row in table.values()])
    if one.initial_state is None and measure == "success":
        return Successes(one.benchmark, tuple(arms), tasks, _by_task(tables, starts, tasks, len(arms)))
    _, states, subtasks = chain_lengths([tables[0][s] for s in starts], first)
    longest = subtasks if measure == "completed" else None
    results = [
        [row.success if longest is None else row.completed for row in map(t.__getitem__, starts)] for t in tables
    ]
    values = per_state(np.array(results, dtype=np.float64) / (longest or 1), states)
    outcomes = (values.reshape(len(arms), -1, values.shape[-1]),)
    return Successes(one.benchmark, tuple(arms), tasks, outcomes, longest, len(starts))


def _by_task(
    tables: Sequence[Mapping[Start, EpisodeRow]], starts: Sequence[Start], tasks: Sequence[str], arms: int
) -> tuple[npt.NDArray[np.bool_], ...]:
    outcomes = []
    for task in tasks:
        flat = np.array([[table[s].success for s in starts if s[0] == task] for table in tables])
        outcomes.append(flat.reshape(arms, -1, flat.shape[-1]))
    return tuple(outcomes)


def chain_lengths(rows: Sequence[EpisodeRow], name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Of chains of one checkpoint: subtasks solved in a row and number of the initial state, per row; subtasks at most.

    Refuses rows of single tasks, and of chains whose initial state nobody told (``chains.told`` does).
    """
    by_start(rows, name)
    single = [(row.task, row.episode) for row in rows if row.initial_state is None or row.subtasks is None]
    if single:
        raise refuse(
            f"{len(single)} episodes of {name!r} are no chains or have no initial state, such as {single[0]}",
            possible="rows of a benchmark whose episodes are chains, and the initial state of each",
            todo="Leave the single tasks out.",
        )
    lengths = np.array([row.completed or 0 for row in rows], dtype=np.int64)
    states = np.array([row.initial_state for row in rows], dtype=np.int64)
    return lengths, states, max(row.subtasks or 0 for row in rows)


def by_start(rows: Sequence[EpisodeRow], name: str) -> dict[Start, EpisodeRow]:
    """The rows of one checkpoint by start; refuses rows of several checkpoints, benchmarks or controls, and repeats."""
    if not rows:
        raise refuse(f"There are no rows of {name!r}", todo="Run its evaluation first.")
    for field in ("run", "arm", "control", "benchmark"):
        values = sorted({str(getattr(r, field)) for r in rows})
        if len(values) > 1:
            raise refuse(
                f"The rows of {name!r} have more than one {field}: {', '.join(values)}",
                possible="rows of one checkpoint, one benchmark version and one control",
                todo="Compare them separately; versions and training runs are never pooled.",
            )
    starts = {(r.task, r.episode): r for r in rows}
    if len(starts) < len(rows):
        raise refuse(
            f"{len(rows) - len(starts)} episodes of {name!r} are there twice",
            possible="one row per task and episode",
            todo="Give each rows.jsonl once.",
        )
    return starts


def common_starts(a: dict[Start, EpisodeRow], b: dict[Start, EpisodeRow], a_name: str, b_name: str) -> list[Start]:
    """The common starts in task and episode order, or a refusal that says where the two sides differ.

    Only rows of one run (a policy and its own control) may cover different starts.
    """
    first_a, first_b = next(iter(a.values())), next(iter(b.values()))
    if first_a.benchmark != first_b.benchmark:
        raise refuse(
            f"{a_name!r} was evaluated on {first_a.benchmark}, {b_name!r} on {first_b.benchmark}",
            possible="one benchmark id with one version on both sides",
            todo="Evaluate both on the same version; a changed step limit or success rule is another benchmark.",
        )
    common = sorted(a.keys() & b.keys())
    different = sorted(a.keys() ^ b.keys())
    if not common or (different and first_a.run != first_b.run):
        raise refuse(
            f"{a_name!r} has {len(a)} starts, {b_name!r} has {len(b)}, {len(common)} are shared",
            possible="the same (task, episode) on both sides",
            todo="Let both evaluations finish on the same start list.",
        )
    for start in common:
        if a[start].seed != b[start].seed:
            raise refuse(
                f"Task {start[0]!r} episode {start[1]} has seed {a[start].seed} for {a_name!r} and {b[start].seed} "
                f"for {b_name!r}: these are different starts",
                possible="the same seed for the same (task, episode) on both sides",
                todo="Evaluate both on the same split of the same benchmark version.",
            )
    return common
