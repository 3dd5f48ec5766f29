"""Files of the folder ``paper``: a figure as PDF and SVG, a table as LaTeX and Markdown, for both CSV and caption.

The same records give the same bytes. Type in PDF is embedded TrueType, in SVG outlines.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup

from vlm4vla.records import write_atomic
from vlm4vla.report import tables
from vlm4vla.report.figures import style
from vlm4vla.report.paper.source import Plot
from vlm4vla.report.tables import PrintTable

_TYPE: dict[Any, Any] = {"font.size": 7, "axes.titlesize": 7, "axes.linewidth": 0.6, "pdf.fonttype": 42}


def plot(made: Plot, out: Path) -> tuple[Markup, float]:
    """Write OUT/NAME.pdf, .svg, .csv and .caption.txt; returns the SVG for the page, and its width in inches."""
    with style(f"paper-{made.name}"):
        mpl.rcParams.update(_TYPE)
        drawn = made.draw()
        engine = drawn.get_layout_engine()
        assert engine is not None
        engine.execute(drawn)  # once; each file would do so again
        drawn.set_layout_engine("none")
        pdf, svg = io.BytesIO(), io.StringIO()
        drawn.savefig(pdf, format="pdf", facecolor="white", metadata={"CreationDate": None, "Creator": None})
        drawn.savefig(svg, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<!--.*?-->", "", svg.getvalue(), flags=re.DOTALL)  # matplotlib repeats each text in a comment
    write_atomic(out / f"{made.name}.pdf", pdf.getvalue())
    write_atomic(out / f"{made.name}.svg", text)
    _words(made.name, made.title, made.caption, made.plain, out)
    return _inline(text, f"paper-{made.name}"), float(drawn.get_figwidth())


def table(made: PrintTable, out: Path) -> None:
    """Write OUT/NAME.tex, .md, .csv and .caption.txt."""
    write_atomic(out / f"{made.name}.tex", tables.to_latex(made))
    write_atomic(out / f"{made.name}.md", tables.to_markdown(made))
    _words(made.name, made.title, made.caption, made.plain, out)


def _words(name: str, title: str, caption: str, plain: Iterable[Mapping[str, object]], out: Path) -> None:
    write_atomic(out / f"{name}.csv", to_csv(plain))
    write_atomic(out / f"{name}.caption.txt", f"{' '.join(f'{title}. {caption}'.split())}\n")


def to_csv(plain: Iterable[Mapping[str, object]]) -> str:
    """Lines with the columns of all; null is empty. No text begins as a spreadsheet's formula does."""
    lines = list(plain)
    buffer = io.StringIO()
    names = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: tables.harmless(value) for key, value in line.items()} for line in lines)
    return buffer.getvalue()


def _inline(svg: str, prefix: str) -> Markup:
    """Without XML header and description; ids are unique within the page."""
    text = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text))  # noqa: S704  our own SVG
