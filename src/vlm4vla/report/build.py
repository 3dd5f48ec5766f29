"""``build(study, out)``: a study folder's records become a page, a Markdown file and figures. No GPU, no simulator."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from vlm4vla.records import write_atomic
from vlm4vla.report import choices, figures, folder, sentences, videos, view


def build(study: Path, out: Path, *, embed_limit: int = videos.EMBED_LIMIT) -> dict[str, Any]:
    """Write OUT/index.html (self-contained), OUT/report.md and OUT/figures; the same records give the same bytes.

    ``embed_limit``: bytes of video files that go into the page; further ones are copied to OUT/videos. Returns what
    was written: paths, sizes in bytes, counts. Errors: a missing, torn or contradictory record is refused.
    """
    records = folder.load(study)
    clips = videos.clips(records, out, embed_limit)
    drawings = [d for d in (figures.success(records), figures.comparisons(records), figures.learning(records)) if d]
    for drawing in drawings:
        write_atomic(out / "figures" / f"{drawing.name}.svg", _standalone(drawing.wide))
        write_atomic(out / "figures" / f"{drawing.name}.png", drawing.png)
    differing, equal = view.audit(records)
    content = {
        "study": records.file,
        "arms": view.arms(records),
        "answer": view.answer(records),
        "recipes": view.recipes(records),
        "table": view.table(records),
        "level": next((f"{100 * e.level:g}" for row in records.table for e in row.estimates.values()), "95"),
        "estimands": sentences.ESTIMANDS,
        "comparisons": [(records.title(c), c) for c in records.comparisons],
        "figures": {d.name: (d, Markup(d.wide), Markup(d.narrow)) for d in drawings},  # noqa: S704  our own SVG
        "clips": [
            (task, shown) for task in records.file.tasks if (shown := [clip for clip in clips if clip.task == task])
        ],
        "choices": choices.choices(records),
        "parameters": view.parameters(records.training),
        "audit": records.audit,
        "differing": differing,
        "equal": equal,
        "provenance": view.provenance(records),
        "episodes": view.episodes(records),
    }
    templates = page_templates()
    page = templates.get_template("report.html.j2").render(content)
    text = templates.get_template("report.md.j2").render(content)
    write_atomic(out / "index.html", page)
    write_atomic(out / "report.md", text)
    return {
        "html": str(out / "index.html"),
        "markdown": str(out / "report.md"),
        "main_figure": str(out / "figures" / "success.png"),
        "figures": [d.name for d in drawings],
        "bytes": len(page.encode()),
        "rows": sum(len(row.rows) for row in records.table),
        "videos_embedded": sum(clip.embedded for clip in clips),
        "videos_copied": sum(clip.source is not None and not clip.embedded for clip in clips),
    }


def page_templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = lambda text: Markup(view.markdown(text))  # noqa: S704  escaped there
    environment.filters["value"] = view.value
    environment.filters["breakable"] = lambda text: Markup(escape(text).replace("_", Markup("_<wbr>")))  # noqa: S704  escaped
    environment.filters["duration"] = view.duration
    environment.filters["moment"] = view.moment
    environment.filters["percent"] = sentences.percent
    environment.filters["points"] = sentences.points
    environment.filters["p"] = sentences.p_value
    return environment


def _standalone(svg: str) -> str:
    """A file of its own needs a white ground: it is shown on dark pages too."""
    return svg.replace("<svg ", '<svg style="background:#fff" ', 1)
