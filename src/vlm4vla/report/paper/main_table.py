"""The main table: every arm with its interval and letters, published values beside it in grey."""

from collections.abc import Mapping

from vlm4vla.records import Estimate
from vlm4vla.report.paper.matching import Beside, beside
from vlm4vla.report.paper.source import Recipe, Source, cautions, numbers
from vlm4vla.report.sentences import percent
from vlm4vla.report.tables import Cell, PrintTable, Row

TASKS = 6
"""More tasks than this do not fit in a printed table: their rates are in the heat map and in the CSV file."""


def make(source: Source) -> PrintTable:
    published = beside(source)
    of_task = {(e.arm, e.task): e for e in source.appendix.tasks} if source.appendix else {}
    tasks = source.study.file.tasks if of_task and 1 < len(source.study.file.tasks) <= TASKS else []
    letters = any(r.mean is not None and r.mean.letters for r in source.recipes)
    mean = "Mean, %" if source.study.measure == "success" else "In a row"
    heads = [*tasks, mean, *(["Letters"] if letters else []), "Runs", "n"]
    heads += ["Published"] if published.numbers else []
    rows, plain = [], []
    for recipe in source.best_first:
        cells: list[Cell | None] = [_rate(of_task.get((recipe.name, task))) for task in tasks]
        cells.append(_rate(recipe.mean, limits=True))
        cells += [Cell((recipe.mean.letters if recipe.mean else None) or "")] if letters else []
        cells += [Cell(str(len(recipe.rows))), Cell(str(sum(len(row.rows) for row in recipe.rows)))]
        number = published.numbers.get(recipe.name)
        cells += [Cell(number.printed, title=number.place, grey=True) if number else None] if published.numbers else []
        rows.append(Row("Arms" if source.study.file.references else "", recipe.label, tuple(cells)))
        plain += _plain(recipe, of_task, published)
    for row in source.study.table:
        if row.kind == "reference":
            cells = [_rate(row.estimates.get(task)) for task in tasks]
            cells += [_rate(row.estimates.get(None), limits=True)]
            cells += [*([Cell("")] if letters else []), Cell("–"), Cell(str(len(row.rows)))]
            cells += [None] if published.numbers else []
            rows.append(Row("For scale", row.label, tuple(cells)))
            kept = [e for task, e in row.estimates.items() if task is None or task in source.study.file.tasks]
            head = {"kind": "reference", "arm": row.arm, "label": row.label}
            plain += [head | {"task": e.task, **numbers(e)} for e in kept]
    return PrintTable(
        name="main-table",
        title=f"Results on {source.study.file.benchmark}",
        caption=_caption(source, published, bool(letters), bool(tasks)),
        columns=tuple(heads),
        rows=tuple(rows),
        plain=tuple(plain),
    )


def _rate(estimate: Estimate | None, limits: bool = False) -> Cell | None:
    if estimate is None:
        return None
    rate, low, high = (percent(x, estimate.measure) for x in (estimate.rate, estimate.low, estimate.high))
    return Cell(rate, f"{low} to {high}" if limits else "")


def _plain(
    recipe: Recipe, of_task: Mapping[tuple[str, str | None], Estimate], published: Beside
) -> list[dict[str, object]]:
    head: dict[str, object] = {"kind": "arm", "arm": recipe.name, "label": recipe.label}
    lines = [head | {"task": task, **numbers(e)} for (arm, task), e in of_task.items() if arm == recipe.name]
    if recipe.mean is not None:
        number = published.numbers.get(recipe.name)
        shown: dict[str, object] = {}
        if number is not None:
            shown = {"published": number.printed, "published_unit": number.unit, "published_place": number.place}
            shown["published_source"] = number.source
        lines.append(head | {"task": None, **numbers(recipe.mean), **shown})
    return lines


def _caption(source: Source, published: Beside, letters: bool, tasks: bool) -> str:
    means = [recipe.mean for recipe in source.recipes]
    references = [row.estimates.get(None) for row in source.study.table if row.kind == "reference"]
    parts = [
        f"{source.unit.caption}, best arm first{', each task and their mean' if tasks else ''}. {source.n}.",
        source.standing(means),
        f"For scale: {source.standing(references)}" if references else "",
        "Arms that share a letter cannot be told apart (Holm over all pairs)." if letters else "",
        cautions(means),
        published.why,
        f"Caveat: {source.study.file.caveat}",
    ]
    return " ".join(" ".join(part.split()) for part in parts if part)
