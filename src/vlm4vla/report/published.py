"""The page of published numbers: tables and correlation figure as HTML, Markdown, LaTeX, CSV, PDF and SVG."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlm4vla.records import write_atomic
from vlm4vla.report import correlation_figure, tables
from vlm4vla.report.build import page_templates
from vlm4vla.report.correlation import Correlation, Point, document, signed, words
from vlm4vla.report.tables import Cell, PrintTable, Row


@dataclass(frozen=True)
class Page:
    """What is published: ``tables`` in order; ``sources`` as (key, title, standing); ``lead``: what it all allows."""

    title: str
    lead: tuple[str, ...]
    caveat: str
    tables: tuple[PrintTable, ...]
    correlations: tuple[Correlation, ...]
    sources: tuple[tuple[str, str, str], ...]


def build(page: Page, out: Path) -> dict[str, Any]:
    """Write OUT/index.html (self-contained), published.md, tables/NAME.tex and .csv, figures/ and correlation.json.

    The same numbers give the same bytes. Returns the paths of what was written.
    """
    every = (correlation_table(page.correlations), *page.tables)
    drawing = correlation_figure.drawing(page.correlations)
    content = {
        "page": page,
        "tables": every,
        "markdown": {table.name: Markup(tables.to_markdown(table)) for table in every},  # noqa: S704  escaped there
        "figure": (Markup(drawing.wide), Markup(drawing.narrow), drawing.description),  # noqa: S704  our own SVG
        "readings": [(c, words(c)) for c in page.correlations],
        "figure_caption": figure_caption(page.correlations),
    }
    templates = page_templates()
    write_atomic(out / "index.html", templates.get_template("published.html.j2").render(content))
    write_atomic(out / "published.md", templates.get_template("published.md.j2").render(content))
    for table in every:
        write_atomic(out / "tables" / f"{table.name}.tex", tables.to_latex(table))
        write_atomic(out / "tables" / f"{table.name}.csv", tables.to_csv(table))
    written = write_correlations(page.correlations, out)
    return {
        "html": str(out / "index.html"),
        "markdown": str(out / "published.md"),
        "tables": [str(out / "tables" / f"{table.name}{end}") for table in every for end in (".tex", ".csv")],
        **written,
    }


def write_correlations(found: Sequence[Correlation], out: Path) -> dict[str, Any]:
    """OUT/correlation.json with everything computed, OUT/points.csv, and the figure at two widths for print."""
    write_atomic(out / "correlation.json", json.dumps(document(found), indent=1, allow_nan=False) + "\n")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = list(Point.model_fields)
    writer.writerow(["scores", "benchmark", *names])
    for c in found:
        writer.writerows([c.scores, c.benchmark, *(getattr(p, name) for name in names)] for p in c.points)
    write_atomic(out / "points.csv", buffer.getvalue())
    figures = correlation_figure.write_print(found, out / "figures")
    return {
        "correlation": str(out / "correlation.json"),
        "points": str(out / "points.csv"),
        "figures": [str(file) for file in figures],
    }


def figure_caption(found: Sequence[Correlation]) -> str:
    first = found[0]
    return (
        f"Success against VLM score; one point is one VLM (n = {first.n}, {first.families} families, one training run "
        f"each), bars are one standard error where it is known, in success episode noise alone. In brackets Fisher's "
        f"{100 * first.level:g}% interval; p from {first.p_method}. Lines are least squares, dashed where neither a "
        f"correlation nor its absence is shown (by the interval, and by p with Holm's correction over {len(found)}). "
        f"Estimand: these checkpoints; nothing here is about retraining."
    )


def correlation_table(found: Sequence[Correlation]) -> PrintTable:
    """The correlations with the families first."""
    heads = ("family left out", "family means", "within families", "r", "interval", "p", "reliability")  # fmt: skip
    rows: list[Row] = []
    for c in found:
        texts = [
            _span(c.family_range),
            signed(c.family_means.r if c.family_means else None),
            signed(c.within_r),
            signed(c.r),
            _span((c.low, c.high)),
            f"{c.p:.3f}" if c.p < 0.01 else f"{c.p:.2f}",
            "–" if c.success_reliability is None else f"{c.success_reliability:.2f}",
        ]
        rows.append(Row("", c.benchmark, tuple(Cell(text) for text in texts)))
    plain = [c.model_dump(mode="json", exclude={"points", "notes"}) for c in found]
    first = found[0]
    return PrintTable(
        name="correlations",
        title="Correlations",
        caption=(
            f"Correlation of {first.scores} with success over {first.n} VLMs of {first.families} families. Interval: "
            f"{100 * first.level:g}%, Fisher; p: {first.p_method}. Reliability: share of the variance between VLMs "
            f"that is not episode noise. Left out: range of r without one family. One training run per "
            f"VLM; estimand: these checkpoints."
        ),
        columns=heads,
        rows=tuple(rows),
        plain=tuple({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in line.items()} for line in plain),
    )


def _span(both: tuple[float, float] | None) -> str:
    return "–" if both is None else f"{signed(both[0])} to {signed(both[1])}"
