"""One table in three notations for print: Markdown, LaTeX (booktabs) and CSV. HTML is made by the templates."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from vlm4vla.report.view import markdown

MARKS = {
    "q": "mean of the tasks' rates, each rounded to whole percent before",
    "c": "cut off after two decimals instead of rounded",
    "u": "no count of episodes gives this number: averaging not explained",
    "d": "read off a figure",
    "r": "recovered from other published numbers",
    "e": "printed digits, unlike the rest of the table",
    "s": "from a second-hand source",
    "v": "in the OpenReview submission, or no version stated",
}
"""What may stand behind a number; a table's notes explain those that occur in it."""


@dataclass(frozen=True)
class Cell:
    """``text`` as printed; ``small`` stands below or behind it; ``marks``: keys of ``MARKS``; ``title``: its source.

    ``grey``: not measured here; grey in LaTeX, in italics in Markdown.
    """

    text: str
    small: str = ""
    marks: str = ""
    title: str = ""
    grey: bool = False


@dataclass(frozen=True)
class Row:
    group: str
    label: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class PrintTable:
    """``plain``: the same numbers one a line, with everything known about each, for the CSV file.

    ``wide``: width in LaTeX of each column of text, first one included, as a share of the page; empty: numbers.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    plain: tuple[Mapping[str, object], ...] = field(default=(), repr=False)
    wide: tuple[float, ...] = ()

    @property
    def groups(self) -> list[tuple[str, list[Row]]]:
        return [(name, list(rows)) for name, rows in groupby(self.rows, key=lambda row: row.group)]

    @property
    def notes(self) -> list[tuple[str, str]]:
        """The marks that occur, with their meaning."""
        used = {mark for row in self.rows for cell in row.cells if cell is not None for mark in cell.marks}
        return [(mark, text) for mark, text in MARKS.items() if mark in used]


def to_csv(table: PrintTable) -> str:
    names = list(dict.fromkeys(key for line in table.plain for key in line))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: harmless(value) for key, value in line.items()} for line in table.plain)
    return buffer.getvalue()


def harmless(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it; numbers in text stay."""
    if not isinstance(value, str) or not value.lstrip().startswith(("=", "+", "-", "@")):
        return value
    return value if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", value, re.IGNORECASE) else f"'{value}"


def to_markdown(table: PrintTable) -> str:
    grouped = any(row.group for row in table.rows)
    heads = [*([""] if grouped else []), "", *map(markdown, table.columns)]
    columns = ("---|" if table.wide else "---:|") * len(table.columns)
    lines = [_md_row(heads), "|" + "---|" * (2 if grouped else 1) + columns]
    for group, rows in table.groups:
        for i, row in enumerate(rows):
            first = [markdown(group) if i == 0 else ""] if grouped else []
            lines.append(_md_row([*first, markdown(row.label), *map(_md_cell, row.cells)]))
    lines += ["", markdown(table.caption)]
    if table.notes:
        lines += ["", "; ".join(f"{mark}: {text}" for mark, text in table.notes) + "."]
    return "\n".join(lines) + "\n"


def _md_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _md_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = cell.text + (f" {cell.marks}" if cell.marks else "") + (f" ({cell.small})" if cell.small else "")
    return f"*{markdown(text)}*" if cell.grey and text else markdown(text)


def to_latex(table: PrintTable) -> str:
    """A ``table*`` with booktabs rules; needs \\usepackage{booktabs} and a UTF-8 engine or inputenc.

    Grey cells need xcolor, wide columns array.
    """
    grouped = any(row.group for row in table.rows)
    width = 1 + len(table.columns)
    caption = " ".join([f"{table.title}. {table.caption}", *(f"{mark}: {text}." for mark, text in table.notes)])
    lines = [
        r"\begin{table*}", r"\centering", r"\small",
        rf"\caption{{{latex(caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{_layout(table)}}}", r"\toprule",
        " & ".join(["", *map(latex, table.columns)]).strip() + r" \\",
    ]  # fmt: skip
    for group, rows in table.groups:
        lines.append(r"\midrule")
        if grouped:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{latex(group)}}}}} \\")
        for row in rows:
            label = (r"\quad " if grouped else "") + latex(row.label)
            lines.append(" & ".join([label, *map(_latex_cell, row.cells)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _layout(table: PrintTable) -> str:
    if not table.wide:
        return "l" + "r" * len(table.columns)
    return "".join(rf">{{\raggedright\arraybackslash}}p{{{width:.3f}\textwidth}}" for width in table.wide)


def _latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    mark = rf"\textsuperscript{{{cell.marks}}}" if cell.marks else ""
    small = rf" {{\scriptsize {latex(cell.small)}}}" if cell.small else ""
    whole = latex(cell.text) + mark + small
    return rf"\textcolor{{gray}}{{{whole}}}" if cell.grey else whole


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--", "<": r"\textless{}",
    ">": r"\textgreater{}", "\u202f": r"\,", "|": r"\textbar{}", '"': "''", "Δ": r"$\Delta$", "±": r"$\pm$",
    "×": r"$\times$", "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip


def latex(text: object) -> str:
    """Escape for LaTeX text: no command, environment or comment is left; brackets cannot follow ``\\\\`` as options."""
    one_line = " ".join(str(text).split())
    return "".join(_LATEX.get(letter, letter if letter.isprintable() else "") for letter in one_line)
