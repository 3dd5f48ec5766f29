"""The sentences that belong to the numbers: what a rate, an interval and a difference say, and what they do not say.

They are written once, here, so that the page, the Markdown file and the command line cannot tell different stories.
"""

from collections.abc import Sequence
from typing import Literal

from vlm4vla.records import Comparison, Estimate, Measure

ESTIMANDS = {
    "E1": "this checkpoint on this list of starts",
    "E2": "this checkpoint on starts like these",
    "E3": "this recipe, trained again",
}


BH = (
    "BH: p of the same tests as Benjamini and Hochberg correct it, over the same comparisons as Holm. Holm bounds the "
    "chance of any false claim, and all verdicts rest on it; BH bounds the share of false ones among the claims made."
)
"""What the column of that name holds."""


def row_name(arm: str, control: str | None) -> str:
    """The name of a table row in ``Comparison.a`` and ``.b``: ``arm``, or ``arm [control]``."""
    return arm if control is None else f"{arm} [{control}]"


_OPENED = {"\u202a": "\u202c", "\u202b": "\u202c", "\u202d": "\u202c", "\u202e": "\u202c"}
_OPENED |= dict.fromkeys("\u2066\u2067\u2068", "\u2069")


def settled(label: str) -> str:
    """A label whose marks of writing direction end with it: an open one would turn round the numbers after it."""
    open_: list[str] = []
    for letter in label:
        if letter in _OPENED:
            open_.append(_OPENED[letter])
        elif open_ and letter == open_[-1]:
            open_.pop()
    return label + "".join(reversed(open_))


def percent(rate: float, measure: Measure = "success") -> str:
    """``0.6133`` -> ``61.3``; subtasks solved in a row stay what they are: ``2.134`` -> ``2.13``."""
    return f"{100 * rate:.1f}" if measure == "success" else f"{rate:.2f}"


def points(difference: float, measure: Measure = "success") -> str:
    """``-0.0712`` -> ``−7.1`` (a real minus sign), ``0.2`` -> ``+20.0``, what rounds to zero -> ``0.0``.

    Subtasks solved in a row: ``-0.0712`` -> ``−0.07``.
    """
    text = percent(abs(difference), measure)
    if not text.strip("0."):
        return text
    return ("+" if difference > 0 else "−") + text


def p_value(value: float) -> str:
    """``p = 0.031``, ``p < 0.001``, ``p > 0.99``: three decimals carry all that such tests can say."""
    if value < 0.001:
        return "p < 0.001"
    return "p > 0.99" if value > 0.99 else f"p = {value:.3f}"


def rate_sentence(label: str, estimate: Estimate) -> str:
    """``Full fine-tuning succeeded in 46 of 75 episodes: 61.3% (95% interval 50.0 to 71.5%).``"""
    if estimate.measure == "completed":
        return _chains_sentence(label, estimate)
    interval = f"({100 * estimate.level:g}% interval {percent(estimate.low)} to {percent(estimate.high)}%)"
    if estimate.estimand == "E3":
        caution = f" Caution: {estimate.caution}." if estimate.caution else ""
        rate = f"succeeds in {percent(estimate.rate)}% of episodes {interval}"
        return _capital(f"{label}, trained {estimate.seeds} times, {rate}, as a recipe that is trained again.{caution}")
    counts = f"{estimate.successes} of {estimate.episodes} episodes"
    return _capital(f"{label} succeeded in {counts}: {percent(estimate.rate)}% {interval}.")


def _chains_sentence(label: str, e: Estimate) -> str:
    """``Full fine-tuning solved 2.13 of 5 subtasks in a row on average over 1000 chains (95% interval ...).``"""
    interval = f"({100 * e.level:g}% interval {percent(e.low, e.measure)} to {percent(e.high, e.measure)})"
    average = f"{percent(e.rate, e.measure)} of {e.longest} subtasks in a row on average"
    if e.estimand != "E3":
        return _capital(f"{label} solved {average} over {e.episodes} chains {interval}.")
    caution = f" Caution: {e.caution}." if e.caution else ""
    return _capital(
        f"{label}, trained {e.seeds} times, solves {average} {interval}, as a recipe that is trained again.{caution}"
    )


Verdict = Literal["better", "worse", "equal", "undecided"]


def verdict(comparison: Comparison) -> Verdict:
    """What a comparison says of its first side.

    Interval and (corrected) test must agree before one is called better; otherwise it is undecided, not equal.
    """
    c = comparison
    if (c.low > 0 or c.high < 0) and c.p_value <= 1 - c.level:
        return "better" if c.difference > 0 else "worse"
    if c.equivalence is not None and c.equivalence_p is not None and c.equivalence_p <= 1 - c.level:
        return "equal"
    return "undecided"


def difference_sentence(comparison: Comparison, a: str, b: str) -> str:
    """The verdict on ``a`` minus ``b`` in one sentence."""
    c, found = comparison, verdict(comparison)
    unit, each = ("points", "episodes") if c.measure == "success" else ("subtasks in a row", "chains")
    low, high = points(c.low, c.measure), points(c.high, c.measure)
    numbers = (
        f"{points(c.difference, c.measure)} {unit}, {100 * c.level:g}% interval {low} to {high}, "
        f"{p_value(c.p_value)}, "
        + (f"{c.seeds} training runs each" if c.pairs is None else f"{c.pairs} pairs of {each}")
    )
    if found in ("better", "worse"):
        return _capital(f"{a} did {found} than {b} ({numbers}).")
    if found == "equal":
        assert c.equivalence is not None and c.equivalence_p is not None
        bound = 100 * c.equivalence if c.measure == "success" else c.equivalence
        within = f"{bound:g} {unit}, as declared before the study, {p_value(c.equivalence_p)}"
        return _capital(f"{a} and {b} are equal to within {within} ({numbers}).")
    return _capital(f"{a} and {b} cannot be told apart ({numbers}); this does not show that they are equal.")


def family_sentence(found: Sequence[Comparison], firsts: Sequence[str], than: str) -> str:
    """Many comparisons with one second side: how many ended how, and which are the few that ended otherwise.

    ``firsts``: labels of the first sides, in the order of ``found``.
    """
    sides: dict[Verdict, list[str]] = {"better": [], "worse": [], "equal": [], "undecided": []}
    for comparison, label in zip(found, firsts, strict=True):
        sides[verdict(comparison)].append(label)
    most = max(sides, key=lambda side: len(sides[side]))
    words = {
        "better": f"did better than {than}",
        "worse": f"did worse than {than}",
        "equal": f"are equal to {than} within the declared bounds",
        "undecided": f"cannot be told apart from {than}",
    }
    parts = [f"{len(sides[most])} of {len(found)} checkpoints {words[most]}"]
    parts += [f"{len(x)} {words[side]}{_named(x)}" for side, x in sides.items() if x and side != most]
    return _capital("; ".join(parts) + ".")


def pairs_sentence(found: Sequence[Comparison]) -> str:
    """Many pairs of arms: ``Of 190 pairs of arms 84 differ and 106 cannot be told apart, which does not show ...``"""
    ends = [verdict(c) for c in found]
    differ = ends.count("better") + ends.count("worse")
    equal = f", {ends.count('equal')} are equal to within the declared bounds" if "equal" in ends else ""
    undecided = f"{ends.count('undecided')} cannot be told apart, which does not show that they are equal"
    return f"Of {len(found)} pairs of arms {differ} differ{equal}, and {undecided}."


def leader_sentence(label: str, rivals: Sequence[str], others: int) -> str:
    """Who has the highest rate, and whom that does not set it apart from."""
    first = f"{label} has the highest rate"
    if not rivals:
        return _capital(f"{first} and is told apart from all {others} others.")
    return _capital(f"{first}; {len(rivals)} of the {others} others cannot be told apart from it{_named(rivals)}.")


def _named(labels: Sequence[str], limit: int = 6) -> str:
    """`` (A, B)``, or nothing where there are too many to read."""
    return f" ({', '.join(labels)})" if len(labels) <= limit else ""


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


def scale_scope_sentence(floor: bool, controls: bool) -> str:
    """What comparisons with the floor and with controls are about: never recipes, whatever stands above them."""
    sides = [words for words, there in (("the floor", floor), ("a policy's own controls", controls)) if there]
    return f"Comparisons with {' and '.join(sides)} are about single checkpoints on starts like these."


def reading(comparison: Comparison, a: str | None = None, b: str | None = None) -> str:
    """Verdict and scope of a comparison; ``a`` and ``b`` are labels to print in place of the recorded names."""
    verdict = difference_sentence(comparison, a or comparison.a, b or comparison.b)
    return f"{verdict} {scope_sentence(comparison)}"
