"""What a study with several training seeds says about its recipes (estimand E3), as records for the report."""

from collections.abc import Mapping, Sequence

from vlm4vla.records import Comparison, EpisodeRow, Estimate
from vlm4vla.study.multiplicity import benjamini_hochberg, holm
from vlm4vla.study.retrained import Variances, compare_recipes, display, recipes
from vlm4vla.study.successes import successes

Runs = Mapping[str, Sequence[Sequence[EpisodeRow]]]


def conclude(
    arms: Runs, *, equivalence: float | None = None, variances: Variances = "rule"
) -> tuple[list[Estimate], list[Comparison]]:
    """Mean over tasks of every arm, and every pair of arms. ``arms``: name -> rows without controls, per training seed.

    p-values are Holm's over the pairs, with Benjamini and Hochberg's beside them. ``equivalence``: the difference in
    rate units, declared beforehand, within which two recipes count as equal; its p-values are Holm's over the pairs as
    well. Chains are told in subtasks solved in a row, ``equivalence`` too. Refuses fewer than two seeds.
    """
    table = successes(arms)
    bounds = None if equivalence is None else (-equivalence, equivalence)
    found = recipes(table, variances=variances)
    compared = compare_recipes(table, variances=variances, bounds=bounds) if len(arms) > 1 else []
    letters = display(found, compared) if compared else {}
    counts = {arm: [row.success for rows in runs for row in rows] for arm, runs in arms.items()}
    estimates = [
        Estimate(
            arm=r.arm,
            control=None,
            benchmark=table.benchmark,
            task=None,
            episodes=len(counts[r.arm]),
            successes=sum(counts[r.arm]),
            rate=r.value,
            low=r.low,
            high=r.high,
            level=r.level,
            method=r.method,
            estimand="E3",
            seeds=table.seeds,
            letters=letters.get(r.arm),
            caution=r.caution,
            measure=table.measure,
            longest=table.longest,
            standard_error=r.standard_error,
        )
        for r in found
    ]
    adjusted = holm([d.p_value for d in compared])
    shared = benjamini_hochberg([d.p_value for d in compared])
    equal = holm([1.0 if d.equivalence_p is None else d.equivalence_p for d in compared])
    comparisons = [
        Comparison(
            a=d.a,
            b=d.b,
            benchmark=table.benchmark,
            pairs=None,
            only_a=None,
            only_b=None,
            difference=d.value,
            low=d.low,
            high=d.high,
            level=d.level,
            interval_method=d.method,
            p_value=p,
            p_method=f"t, Holm over {len(compared)} pairs of recipes",
            estimand="E3",
            seeds=table.seeds,
            caution=d.caution,
            equivalence=equivalence,
            equivalence_p=None if d.equivalence_p is None else e,
            measure=table.measure,
            longest=table.longest,
            p_bh=bh,
        )
        for d, p, bh, e in zip(compared, adjusted, shared, equal, strict=True)
    ]
    return estimates, comparisons
