"""What a correlation between VLM scores and success amounts to: the record, and the sentences that limit it."""

from collections.abc import Sequence
from typing import Any

from vlm4vla.records import Record


class Point(Record):
    """One VLM. ``*_error``: standard error, null where unknown. ``successes``, ``trials``: where success is a count."""

    vlm: str
    family: str
    score: float
    score_error: float | None = None
    success: float
    success_error: float | None = None
    successes: int | None = None
    trials: int | None = None


class LeftOut(Record):
    """Pearson's r without one family or one VLM; null where too little is left (fewer than 3 VLMs, or no spread)."""

    left_out: str
    r: float | None
    n: int


class FamilyMeans(Record):
    """The correlation of the family means: one point per family, as when VLMs of a family are copies of each other."""

    r: float
    p: float
    p_method: str
    families: int


class Homogeneity(Record):
    """Chi-square test that all success rates are one rate seen through episode noise."""

    chi2: float
    df: int
    p: float


class Prediction(Record):
    """Success of a further VLM of the given score. ``basis``: what counts as one observation."""

    score: float
    success: float
    low: float
    high: float
    basis: str


class Correlation(Record):
    """One score against one benchmark. Ranges are (lowest, highest); reliabilities lie between 0 and 1.

    ``within_r``: after the family means are taken off both axes. ``noise_range``: where r falls in 95 % of draws in
    which every success rate (and score) moves by its standard error alone. ``corrected_r``: r divided by the root of
    the known reliabilities. ``critical_r``: smallest r that is significant at this n; ``detectable_r``: the true r
    that is found significant with 80 % power. ``p_holm``: over the correlations computed together.
    """

    scores: str
    benchmark: str
    unit: str
    families_left_out: list[LeftOut]
    family_range: tuple[float, float] | None
    family_means: FamilyMeans | None
    within_r: float | None
    n: int
    families: int
    r: float
    low: float
    high: float
    level: float
    p: float
    p_holm: float
    p_method: str
    spearman: float
    spearman_p: float
    kendall: float
    kendall_p: float
    vlms_left_out: list[LeftOut]
    vlm_range: tuple[float, float] | None
    success_reliability: float | None
    score_reliability: float | None
    homogeneity: Homogeneity | None
    noise_range: tuple[float, float] | None
    corrected_r: float | None
    slope: float
    intercept: float
    predictions: list[Prediction]
    critical_r: float
    detectable_r: float
    points: list[Point]
    notes: tuple[str, ...] = ()

    @property
    def undecided(self) -> bool:
        """By Fisher's interval and Holm's p: of many correlations computed together some have a small p by chance."""
        return self.p_holm > 1 - self.level or self.low <= 0 <= self.high


def document(found: Sequence[Correlation]) -> dict[str, Any]:
    """Plain JSON data: every correlation with its sentences."""
    return {"correlations": [{"words": words(c), **c.model_dump(mode="json")} for c in found]}


def signed(r: float | None) -> str:
    """``-0.3576`` -> ``−0.36``; what rounds to zero has no sign; null -> a dash."""
    if r is None:
        return "–"
    text = f"{abs(r):.2f}"
    return text if r >= 0 or text == "0.00" else "−" + text


def p_words(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.095 else f"p = {p:.2f}"


def words(c: Correlation) -> list[str]:
    """What this correlation allows to say, the families first, in plain sentences."""
    return [*_families(c), _whole(c), _verdict(c), _limits(c), *_noise(c), _prediction(c), *c.notes]


def headline(c: Correlation) -> str:
    """One correlation in two sentences, the families first."""
    families = f"with one family left out {_span(c.family_range)}, " if c.family_range else ""
    interval = f"{100 * c.level:g}% interval {_span((c.low, c.high))}"
    return f"{c.benchmark}: r is {signed(c.r)}, {families}{interval}{_holm(c)}. {_verdict(c)}"


def _families(c: Correlation) -> list[str]:
    if c.family_range is None:
        return [f"{c.families} famil{'y' if c.families == 1 else 'ies'}: none can be left out."]
    low = min((x for x in c.families_left_out if x.r is not None), key=lambda x: x.r or 0.0)
    high = max((x for x in c.families_left_out if x.r is not None), key=lambda x: x.r or 0.0)
    out = [
        f"With one of {c.families} families left out, r goes from {signed(low.r)} (without {low.left_out}) to "
        f"{signed(high.r)} (without {high.left_out})"
        + (": it changes its sign." if c.family_range[0] < 0 < c.family_range[1] else ".")
    ]
    if c.family_means is not None:
        means = c.family_means
        sentence = f"Between the {means.families} family means r is {signed(means.r)} ({p_words(means.p)})"
        if c.within_r is not None:
            sentence += f", within families {signed(c.within_r)}"
            if not c.undecided and c.within_r * means.r < 0.5 * means.r**2:
                sentence += ": what there is, is a contrast between families"
        out.append(sentence + ".")
    return out


def _whole(c: Correlation) -> str:
    leaving = f"; with one VLM left out {_span(c.vlm_range)}" if c.vlm_range else ""
    return (
        f"Over {c.n} VLMs as if each were independent r is {signed(c.r)}, {100 * c.level:g}% interval "
        f"{_span((c.low, c.high))}, {p_words(c.p)} ({c.p_method}){_holm(c)}{leaving}. Spearman {signed(c.spearman)}, "
        f"Kendall {signed(c.kendall)}."
    )


def _holm(c: Correlation) -> str:
    return f", {p_words(c.p_holm)} with Holm" if c.p_holm != c.p else ""


def _span(both: tuple[float, float]) -> str:
    return f"{signed(both[0])} to {signed(both[1])}"


def _verdict(c: Correlation) -> str:
    if c.undecided:
        return "Neither a correlation nor its absence is shown."
    if c.family_means is not None and c.family_means.p > 1 - c.level:
        return (
            f"Score and success go together, but {c.families} families are too few to tell the score from anything "
            "else in which families differ."
        )
    return "Score and success go together in this sample of VLMs; that is no evidence of a cause."


def _limits(c: Correlation) -> str:
    return (
        f"With n = {c.n} an |r| below {c.critical_r:.2f} is not significant, and a true r has to be "
        f"{c.detectable_r:.2f} to be found in four studies of five."
    )


def _noise(c: Correlation) -> list[str]:
    out: list[str] = []
    if c.homogeneity is not None:
        h = c.homogeneity
        same = "could all be one rate" if h.p > 1 - c.level else "differ by more than episode noise"
        out.append(f"The {c.n} success rates {same} (chi-square({h.df}) = {h.chi2:.1f}, {p_words(h.p)}).")
    if c.success_reliability is not None:
        value = f"{c.success_reliability:.2f}"
        counted = all(p.trials is not None for p in c.points)
        noise = "episode noise alone; training again comes on top" if counted else "by the standard errors given"
        out.append(f"Reliability of the success axis {value} ({noise}).")
    if c.score_reliability is None:
        out.append("Reliability of the score axis unknown: its standard errors are not given.")
    else:
        out.append(f"Reliability of the score axis {c.score_reliability:.2f}.")
    if c.noise_range is not None:
        out.append(f"The given errors alone move r over {_span(c.noise_range)}.")
    if c.corrected_r is not None:
        out.append(
            f"Corrected for the known noise r would be {signed(c.corrected_r)}, with an interval wider in proportion."
        )
    return out


def _prediction(c: Correlation) -> str:
    top = c.predictions[-1]
    same = [p for p in c.predictions if p.score == top.score]
    parts = [f"{p.low:.3g} to {p.high:.3g} ({p.basis})" for p in same]
    level = f"{100 * c.level:g}% prediction intervals"
    return f"A new VLM with the highest score here would reach {' or '.join(parts)}; {level}, unit: {c.unit}."
