"""Tables and figures to paste into a paper: ``write`` fills the folder ``paper`` of a report."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from vlm4vla.records import write_atomic
from vlm4vla.report.folder import Study
from vlm4vla.report.paper import (
    audit_table,
    checkpoints,
    forest,
    heatmap,
    main_table,
    output,
    parameters,
    power,
    rates,
    slopes,
    source,
    survival,
    variance,
)
from vlm4vla.report.paper.source import TEXT, Missing, Plot
from vlm4vla.report.tables import PrintTable
from vlm4vla.report.view import markdown

FOLDER = "paper"
MADE = (
    main_table.make, audit_table.make, parameters.make, forest.make, heatmap.make, slopes.make, checkpoints.make,
    survival.make, variance.make, power.make, rates.make,
)  # fmt: skip
OF_TABLE, OF_PLOT = ("tex", "md", "csv", "caption.txt"), ("pdf", "svg", "csv", "caption.txt")


@dataclass(frozen=True)
class Item:
    """A table or figure that was written. ``files``: (ending, path from the report).

    ``svg`` is null for tables; ``width`` in inches.
    """

    name: str
    title: str
    caption: str
    files: tuple[tuple[str, str], ...]
    svg: Markup | None = None
    width: float = TEXT

    @property
    def drawn(self) -> bool:
        """Whether the page draws it: tables not, nor the differences, which it has drawn under its comparisons."""
        return self.svg is not None and self.name != forest.NAME


@dataclass(frozen=True)
class Paper:
    items: tuple[Item, ...]
    missing: tuple[Missing, ...]


def write(study: Study, where: Path, out: Path) -> Paper:
    """Write OUT/paper from the study in the folder ``where``: every table and figure that its records bear, an index.

    The same records give the same bytes. Refuses an appendix that the rows contradict.
    """
    read = source.read(study, where)
    items: list[Item] = []
    missing: list[Missing] = []
    for make in MADE:
        made = make(read)
        if isinstance(made, Missing):
            missing.append(made)
            for ending in {*OF_TABLE, *OF_PLOT}:  # of an earlier report of the same folder
                (out / FOLDER / f"{made.name}.{ending}").unlink(missing_ok=True)
        else:
            items.append(_item(made, out / FOLDER))
    write_atomic(out / FOLDER / "index.md", _index(study, items, missing))
    return Paper(tuple(items), tuple(missing))


def _item(made: Plot | PrintTable, out: Path) -> Item:
    if isinstance(made, Plot):
        svg, width = output.plot(made, out)
        return Item(made.name, made.title, made.caption, _files(made.name, OF_PLOT), svg, width)
    output.table(made, out)
    return Item(made.name, made.title, made.caption, _files(made.name, OF_TABLE))


def _files(name: str, endings: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((ending, f"{FOLDER}/{name}.{ending}") for ending in endings)


def _index(study: Study, items: list[Item], missing: list[Missing]) -> str:
    lines = [
        f"# {markdown(study.file.title)}: tables and figures for print",
        "",
        "Figures are 3.3 or 6.9 inches wide: one column, or the page. Tables need the LaTeX packages booktabs, array",
        "and xcolor. Each CSV file holds the numbers of its table or figure, with nothing rounded.",
        "",
    ]
    for item in items:
        links = ", ".join(f"[{ending}]({Path(path).name})" for ending, path in item.files)
        lines += [f"## {markdown(item.title)}", "", links, "", markdown(item.caption), ""]
    if missing:
        lines += ["## Not made", "", *(f"- {markdown(m.title)}: {markdown(m.why)}." for m in missing), ""]
    return "\n".join(lines)
