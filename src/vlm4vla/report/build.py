"""``build(study, out)``: a study folder's records become a page, a Markdown file and figures. No GPU, no simulator."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from vlm4vla.records import write_atomic
from vlm4vla.report import (
    answer,
    audited,
    browser,
    choices,
    content_policy,
    figures,
    folder,
    learning_figure,
    rates,
    recipe_figure,
    sentences,
    videos,
    view,
)
from vlm4vla.report.paper import write as paper


def build(study: Path, out: Path, *, embed_limit: int = videos.EMBED_LIMIT) -> dict[str, Any]:
    """Write OUT/index.html (self-contained), report.md, figures and paper; the same records give the same bytes.

    ``embed_limit``: bytes of video files that go into the page; further ones are copied to OUT/videos. Returns what
    was written: paths, sizes in bytes, counts. Errors: a missing, torn or contradictory record is refused.
    """
    records = folder.load(study)
    recorded = videos.collect(records, out, embed_limit)
    drawings = [
        recipe_figure.recipes(records) if records.recipes else figures.success(records),
        *filter(None, (figures.comparisons(records), learning_figure.learning(records))),
    ]
    for drawing in drawings:
        write_atomic(out / "figures" / f"{drawing.name}.svg", _standalone(drawing.wide))
        write_atomic(out / "figures" / f"{drawing.name}.png", drawing.png)
    content = (
        {"study": records.file, "figures": {d.name: (d, Markup(d.wide), Markup(d.narrow)) for d in drawings}}  # noqa: S704  our own SVG
        | _numbers(records)
        | _evidence(records)
        | _episodes(records, recorded)
        | {"paper": paper.write(records, study, out)}
    )
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
        "videos_embedded": sum(clip.embedded for clip in recorded.clips) + len(recorded.embedded),
        "videos_copied": recorded.copied,
    }


def _numbers(records: folder.Study) -> dict[str, Any]:
    """Answer, tables of rates, comparisons."""
    table = rates.table(records)
    return {
        "arms": view.arms(records),
        "answer": answer.answer(records),
        "recipes": rates.recipes(records),
        "table": table,
        "chains": rates.chains(records),
        "methods": list(dict.fromkeys(rates.methods(table))),
        "estimands_used": list(dict.fromkeys(rates.estimands(table))),
        "level": next((f"{100 * e.level:g}" for row in records.table for e in row.estimates.values()), "95"),
        "estimands": sentences.ESTIMANDS,
        "measure": records.measure,
        "comparisons": rates.comparisons(records),
        "comparison_count": len(records.comparisons),
        "interval_methods": list(dict.fromkeys(c.interval_method for c in records.comparisons)),
        "bh_note": sentences.BH,
        "p_methods": list(dict.fromkeys(c.p_method for c in records.comparisons)),
        "fold_at": rates.FOLD,
        "shown": rates.SHOWN,
    }


def _evidence(records: folder.Study) -> dict[str, Any]:
    """Choices, parameters, audit, provenance."""
    differing, equal = audited.audit(records)
    return {
        "choices": choices.choices(records),
        "parameters": view.parameters(records),
        "audit": records.audit,
        "audit_columns": audited.columns(records),
        "audit_limit": audited.COLUMNS,
        "differing": differing,
        "equal": equal,
        "provenance": view.provenance(records),
    }


def _episodes(records: folder.Study, recorded: videos.Videos) -> dict[str, Any]:
    """Videos, the rows for the episode browser, its script, and what the page may run."""
    templates = Path(__file__).parent / "templates"
    names = ("tables.js", "browser.js", "style.css")
    *scripts, style = ((templates / name).read_text(encoding="utf-8") for name in names)
    script = "\n".join(scripts)
    return {
        "clips": [
            (task, shown) for task in records.file.tasks if (shown := [c for c in recorded.clips if c.task == task])
        ],
        "videos_note": recorded.note,
        "sources": browser.sources(records),
        "episode_data": browser.embed(browser.data(records, recorded)),
        "video_data": browser.embed(list(recorded.embedded)),
        "script": Markup(script),  # noqa: S704  our own file
        "style": Markup(style),  # noqa: S704  our own file
        "policy": content_policy.policy([script], [style, content_policy.DRAWING_STYLE]),
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
