"""Parameters, tokens and floating point operations of every arm."""

from collections.abc import Callable
from typing import Any

from vlm4vla.records import ParameterCount
from vlm4vla.report.paper.matching import size
from vlm4vla.report.paper.source import Missing, Recipe, Source, merged
from vlm4vla.report.tables import Cell, PrintTable, Row

NAME, TITLE = "parameters", "Parameters, tokens and computation"
FACTS = ("tokens_per_sample", "image_tokens", "model_pixels", "flops_per_sample")


def make(source: Source) -> PrintTable | Missing:
    known = [recipe for recipe in source.recipes if _counts(recipe)]
    if not known:
        return Missing(NAME, TITLE, "no training run recorded its parameters")
    sizes = {recipe.name: size(recipe) for recipe in known}
    published = any(sizes.values())
    groups = list(dict.fromkeys(p.group for recipe in known for p in _counts(recipe)))
    heads = ["Total, M", "Trained, M", "New, M", *(f"{group.capitalize()}, M" for group in groups)]
    heads += ["Tokens", "of pictures", "Pixels", "GFLOP", *(["Published, B"] if published else [])]
    rows, plain = [], []
    for recipe in known:
        counts = {p.group: p for p in _counts(recipe)}
        every = list(counts.values())
        cells: list[Cell | None] = [
            Cell(_millions(sum(p.total for p in every))),
            Cell(_millions(sum(p.trainable for p in every))),
            Cell(_millions(sum(p.new for p in every))),
            *(Cell(_millions(counts[group].total)) if group in counts else None for group in groups),
            *(Cell(merged(recipe.facts(fact), _told(fact))) for fact in FACTS),
        ]
        number = sizes[recipe.name]
        cells += [Cell(number.printed, title=number.place, grey=True) if number else None] if published else []
        rows.append(Row("", recipe.label, tuple(cells)))
        head = {"arm": recipe.name, "label": recipe.label}
        facts = {fact: merged(recipe.facts(fact), str) for fact in FACTS}
        plain += [
            head | {"group": p.group, "total": p.total, "trainable": p.trainable, "new": p.new, "tied": p.tied,
                    "unused": p.unused} for p in every
        ]  # fmt: skip
        plain.append(
            head | {"group": "all", "total": sum(p.total for p in every), "trainable": sum(p.trainable for p in every),
                    "new": sum(p.new for p in every), **facts,
                    "published_billions": number.printed if number else None}
        )  # fmt: skip
    return PrintTable(
        name=NAME,
        title=TITLE,
        caption=(
            "Millions of parameters that the policy carries, of which trained and new (not of the VLM), and by group; "
            "tied tables are counted once. Tokens: of one sample, pictures and instruction; pixels: side of the "
            "picture that the encoder sees; GFLOP: of one sample's forward pass, matrix products and attention, in "
            "training shape. Measured on each arm's training runs"
            + (" (runs of an arm that differ: one after the other)" if source.seeds > 1 else "")
            + "; exact counts, so they have no interval and no estimand."
            + (" Grey: size as published, in billions." if published else "")
        ),
        columns=tuple(heads),
        rows=tuple(rows),
        plain=tuple(plain),
    )


def _counts(recipe: Recipe) -> list[ParameterCount]:
    run = recipe.training[0].run
    return [] if run is None else run.parameters


def _millions(number: int) -> str:
    return f"{number / 1e6:,.{1 if number >= 1e8 else 2}f}"


def _told(fact: str) -> Callable[[Any], str]:
    if fact == "flops_per_sample":
        return lambda value: "–" if value is None else f"{value / 1e9:,.3g}" if value < 1e12 else f"{value / 1e9:,.0f}"
    return lambda value: "–" if value is None else f"{value:,}"
