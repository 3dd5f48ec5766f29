"""Rates and differences as lines of tables, every number with the link that shows its rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlm4vla.records import Comparison, Estimate
from vlm4vla.report import browser, sentences
from vlm4vla.report.folder import Study, TableRow

FOLD = 24
"""A part of a table with more lines than this is folded away where something shorter says the same."""
SHOWN = 40
"""Lines of a long table in the Markdown file, which has no filter."""


@dataclass(frozen=True)
class Cell:
    """A rate: ``rate``, ``low`` and ``high`` in percent (of chains: subtasks in a row) as text; ``href``: its rows."""

    rate: str
    low: str
    high: str
    successes: int
    episodes: int
    href: str
    method: str


@dataclass(frozen=True)
class Line:
    """One line of the main table."""

    kind: str
    label: str
    cells: list[Cell | None]
    mean: Cell | None
    estimand: str


@dataclass(frozen=True)
class Part:
    """Lines of one kind in their groups (title, lines); ``folded``: shown when somebody asks."""

    title: str
    folded: bool
    groups: list[tuple[str, list[Line]]]

    @property
    def count(self) -> int:
        return sum(len(lines) for _, lines in self.groups)


@dataclass(frozen=True)
class RecipeLine:
    """An arm as a recipe. ``letters``: it cannot be told apart from recipes that share one."""

    label: str
    mean: Cell
    seeds: int
    letters: str
    caution: str
    estimand: str


@dataclass(frozen=True)
class ChainLine:
    """Chains of a line: their average, and the rates of 1, 2, ... in a row."""

    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class ComparisonLine:
    """A difference with links to its sides, and to the pairs that only one of them solved."""

    first: str
    second: str
    first_href: str
    second_href: str
    difference: str
    low: str
    high: str
    p: str
    bh: str
    pairs: int | None
    only_first: int | None
    only_second: int | None
    pairs_href: str
    only_first_href: str
    only_second_href: str
    estimand: str


GROUPS = (("reference", "References"), ("arm", "Arms"), ("control", "Controls (evaluation only)"))


def table(study: Study) -> list[Part]:
    """The main table in its parts: references, arms, controls.

    Where recipes are spoken of, many checkpoints are grouped by recipe and folded; controls when they are many.
    """
    recipe_of = {arm.name: arm.recipe for arm in study.file.arms if arm.recipe is not None}
    parts: list[Part] = []
    for kind, title in GROUPS:
        rows = [row for row in study.table if row.kind == kind]
        folded = len(rows) > FOLD and (kind == "control" or bool(study.recipes))
        groups: dict[str, list[Line]] = {}
        for row in rows:
            name = study.labels[recipe_of[row.arm]] if folded and row.arm in recipe_of else title
            groups.setdefault(name, []).append(_line(study, row))
        if groups:
            parts.append(Part(title, folded, list(groups.items())))
    return parts


def _line(study: Study, row: TableRow) -> Line:
    cells = [_cell(row.estimates.get(task), browser.row_href(row, task)) for task in study.file.tasks]
    mean = row.estimates.get(None)
    return Line(
        row.kind, row.label, cells, _cell(mean, browser.row_href(row)), mean.estimand if mean is not None else ""
    )


def _cell(estimate: Estimate | None, href: str) -> Cell | None:
    return None if estimate is None else _filled(estimate, href)


def _filled(e: Estimate, href: str) -> Cell:
    rate, low, high = (sentences.percent(value, e.measure) for value in (e.rate, e.low, e.high))
    return Cell(rate, low, high, e.successes, e.episodes, href, e.method)


def recipes(study: Study) -> list[RecipeLine]:
    """The arms as recipes, best first."""
    return [
        RecipeLine(
            study.labels.get(e.arm, e.arm),
            _filled(e, browser.href(recipe=e.arm, control="")),
            e.seeds or 0,
            e.letters or "",
            e.caution or "",
            e.estimand,
        )
        for e in sorted(study.recipes, key=lambda e: -e.rate)
    ]


def chains(study: Study) -> list[ChainLine]:
    """The lines of the main table whose episodes are chains."""
    return [
        ChainLine(row.label, [_filled(e, browser.row_href(row)) for e in row.in_a_row])
        for row in study.table
        if row.in_a_row
    ]


def by_kind(study: Study) -> dict[str, list[Comparison]]:
    """The comparisons by what they are about: arms with each other, with a reference, with their own controls."""
    found: dict[str, list[Comparison]] = {"arm": [], "reference": [], "control": []}
    for c in study.comparisons:
        sides = {study.lines[name].kind for name in (c.a, c.b) if name in study.lines}
        found["control" if "control" in sides else "reference" if "reference" in sides else "arm"].append(c)
    return found


def families(study: Study) -> list[tuple[str, list[Comparison]]]:
    """The same with titles, empty ones left out."""
    titles = {"arm": "Arms", "reference": "Against a reference", "control": "Against the same under a control"}
    return [(titles[kind], found) for kind, found in by_kind(study).items() if found]


def largest_first(found: Sequence[Comparison]) -> list[Comparison]:
    return sorted(found, key=lambda c: -abs(c.difference))


def comparisons(study: Study) -> list[tuple[str, list[ComparisonLine]]]:
    """All comparisons by family; where they are many the largest differences come first."""
    many = len(study.comparisons) > FOLD
    return [
        (title, [_comparison(study, c) for c in (largest_first(found) if many else found)])
        for title, found in families(study)
    ]


def _comparison(study: Study, c: Comparison) -> ComparisonLine:
    first, second = study.sides(c)
    difference, low, high = (sentences.points(value, c.measure) for value in (c.difference, c.low, c.high))
    return ComparisonLine(
        first=first,
        second=second,
        first_href=browser.name_href(study, c.a),
        second_href=browser.name_href(study, c.b),
        difference=difference,
        low=low,
        high=high,
        p=_p(c.p_value),
        bh="–" if c.p_bh is None else _p(c.p_bh),
        pairs=c.pairs,
        only_first=c.only_a,
        only_second=c.only_b,
        pairs_href=browser.name_href(study, c.a, against=c.b),
        only_first_href=browser.name_href(study, c.a, against=c.b, pair="only"),
        only_second_href=browser.name_href(study, c.a, against=c.b, pair="other"),
        estimand=c.estimand,
    )


def _p(value: float) -> str:
    """As a sentence has it, without its "p": ``0.031``, ``< 0.001``."""
    return sentences.p_value(value).replace("p = ", "").replace("p ", "")


def shown(study: Study, limit: int) -> list[Comparison]:
    """The comparisons of the figure: all, or the largest of the first family that there is."""
    if len(study.comparisons) <= limit:
        return list(study.comparisons)
    return largest_first(families(study)[0][1])[:limit]


def methods(parts: Sequence[Part]) -> Iterator[str]:
    """How the means' intervals were made."""
    for part in parts:
        for _, lines in part.groups:
            yield from (line.mean.method for line in lines if line.mean is not None)


def estimands(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        for _, lines in part.groups:
            yield from (line.estimand for line in lines if line.estimand)
