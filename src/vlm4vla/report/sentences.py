"""The sentences that belong to the numbers: what a rate, an interval and a difference say, and what they do not say.

They are written once, here, so that the page, the Markdown file and the command line cannot tell different stories.
"""

from vlm4vla.records import Comparison, Estimate

ESTIMANDS = {
    "E1": "this checkpoint on this list of starts",
    "E2": "this checkpoint on starts like these",
    "E3": "this recipe, trained again",
}


def row_name(arm: str, control: str | None) -> str:
    """The name of a table row in ``Comparison.a`` and ``.b``: ``arm``, or ``arm [control]``."""
    return arm if control is None else f"{arm} [{control}]"


def percent(rate: float) -> str:
    """``0.6133`` -> ``61.3``."""
    return f"{100 * rate:.1f}"


def points(difference: float) -> str:
    """``-0.0712`` -> ``−7.1`` (a real minus sign), ``0.2`` -> ``+20.0``, what rounds to zero -> ``0.0``."""
    text = f"{100 * abs(difference):.1f}"
    if text == "0.0":
        return text
    return ("+" if difference > 0 else "−") + text


def p_value(value: float) -> str:
    """``p = 0.031``, ``p < 0.001``, ``p > 0.99``: three decimals carry all that such tests can say."""
    if value < 0.001:
        return "p < 0.001"
    return "p > 0.99" if value > 0.99 else f"p = {value:.3f}"


def rate_sentence(label: str, estimate: Estimate) -> str:
    """``Full fine-tuning succeeded in 46 of 75 episodes: 61.3% (95% interval 50.0 to 71.5%).``"""
    interval = f"({100 * estimate.level:g}% interval {percent(estimate.low)} to {percent(estimate.high)}%)"
    if estimate.estimand == "E3":
        caution = f" Caution: {estimate.caution}." if estimate.caution else ""
        rate = f"succeeds in {percent(estimate.rate)}% of episodes {interval}"
        return _capital(f"{label}, trained {estimate.seeds} times, {rate}, as a recipe that is trained again.{caution}")
    counts = f"{estimate.successes} of {estimate.episodes} episodes"
    return _capital(f"{label} succeeded in {counts}: {percent(estimate.rate)}% {interval}.")


def difference_sentence(comparison: Comparison, a: str, b: str) -> str:
    """The verdict on ``a`` minus ``b`` in one sentence.

    Interval and (corrected) test must agree before one is called better; otherwise it is undecided, not equal.
    """
    c = comparison
    numbers = (
        f"{points(c.difference)} points, {100 * c.level:g}% interval {points(c.low)} to {points(c.high)}, "
        f"{p_value(c.p_value)}, "
        + (f"{c.seeds} training runs each" if c.pairs is None else f"{c.pairs} pairs of episodes")
    )
    if (c.low > 0 or c.high < 0) and c.p_value <= 1 - c.level:
        return _capital(f"{a} did {'better' if c.difference > 0 else 'worse'} than {b} ({numbers}).")
    if c.equivalence is not None and c.equivalence_p is not None and c.equivalence_p <= 1 - c.level:
        within = f"{100 * c.equivalence:g} points, as declared before the study, {p_value(c.equivalence_p)}"
        return _capital(f"{a} and {b} are equal to within {within} ({numbers}).")
    return _capital(f"{a} and {b} cannot be told apart ({numbers}); this does not show that they are equal.")


def _capital(sentence: str) -> str:
    """Labels may begin in lower case, sentences do not."""
    return sentence[:1].upper() + sentence[1:]


def scope_sentence(comparison: Comparison) -> str:
    """What the comparison is about, and what it must not be read as."""
    if comparison.estimand == "E1":
        return "This is about these two checkpoints on exactly these starts, and says nothing about other starts."
    if comparison.estimand == "E2":
        return (
            "This is about these two checkpoints on starts like these; with one training run on either side "
            "it says nothing about retraining."
        )
    told = f" {_capital(comparison.caution)}." if comparison.caution else ""
    return f"This is about the recipes: {comparison.seeds} training runs per arm stand behind it.{told}"


def reading(comparison: Comparison, a: str | None = None, b: str | None = None) -> str:
    """Verdict and scope of a comparison; ``a`` and ``b`` are labels to print in place of the recorded names."""
    verdict = difference_sentence(comparison, a or comparison.a, b or comparison.b)
    return f"{verdict} {scope_sentence(comparison)}"
