"""The episode browser: every row of the study as data for the page's script, and the links that filter it.

The data stand in the page once, as JSON that no parser of HTML can mistake for markup; the script writes them as text.
"""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup

from vlm4vla.report.folder import Study, TableRow
from vlm4vla.report.videos import Videos


def href(**filters: str | None) -> str:
    """``#episodes?arm=full&control=&task=a``: the rows with these values; null: with any.

    Filters: arm, recipe, control ("" for none), task, outcome, video, against (the name of another row of the table)
    with pair (only, other, both, neither).
    """
    given = {key: text for key, text in filters.items() if text is not None}
    return "#episodes?" + urlencode(given, quote_via=quote, safe="")


def row_href(row: TableRow, task: str | None = None) -> str:
    """The rows behind a number of the main table; ``task`` null: behind its mean."""
    return href(arm=row.arm, control=row.control or "", task=task)


def name_href(study: Study, name: str, against: str | None = None, pair: str | None = None) -> str:
    """The rows behind one side of a comparison: a row of the table, or all checkpoints of a recipe."""
    if name not in study.lines:
        return href(recipe=name, control="")
    row = study.lines[name]
    return href(arm=row.arm, control=row.control or "", against=against, pair=pair)


def data(study: Study, videos: Videos) -> dict[str, Any]:
    """Columns of equal length, a place per row; texts that repeat are numbered. Null: there is none."""
    rows = [(i, row) for i, line in enumerate(study.table) for row in line.rows]
    tasks = list(dict.fromkeys([*study.file.tasks, *(row.task for _, row in rows)]))
    task_at = {task: i for i, task in enumerate(tasks)}
    failures = sorted({row.failure for _, row in rows if row.failure is not None})
    failure_at = {failure: i for i, failure in enumerate(failures)}
    return {
        "lines": _lines(study),
        "tasks": [[task, study.file.instructions.get(task)] for task in tasks],
        "failures": failures,
        "videos": list(videos.sources),
        "columns": {
            "line": [i for i, _ in rows],
            "task": [task_at[row.task] for _, row in rows],
            "episode": [row.episode for _, row in rows],
            "start": [str(row.seed) for _, row in rows],  # a start's seed may exceed what a script's numbers hold
            "success": [int(row.success) for _, row in rows],
            "steps": [row.steps for _, row in rows],
            "first": [row.first_success_step for _, row in rows],
            "failure": [None if row.failure is None else failure_at[row.failure] for _, row in rows],
            "completed": [row.completed for _, row in rows],
            "video": [videos.of_row(study.table[i], row) for i, row in rows],
        },
    }


def _lines(study: Study) -> list[dict[str, Any]]:
    entries = {entry.name: entry for entry in study.file.arms}
    seeds = {item.arm.name: item.run.seed for item in study.training if item.run is not None}
    sources = {entry.name: entry.eval for entry in study.file.entries}
    lines = []
    for row in study.table:
        entry = entries.get(row.arm)
        recipe = entry.recipe if entry is not None else None
        lines.append(
            {
                "name": row.name,
                "arm": row.arm,
                "label": row.label,
                "plain": entry.label if entry is not None else row.label,
                "recipe": recipe,
                "recipe_label": study.labels[recipe] if recipe is not None else None,
                "seed": seeds.get(row.arm),
                "control": row.control,
                "run": row.run.run,
                "source": f"{sources[row.arm]}/rows.jsonl",
            }
        )
    return lines


def embed(content: object) -> Markup:
    """JSON for a ``<script type="application/json">``: pure ASCII, without a character that means anything in HTML."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(text)  # noqa: S704  without markup


def sources(study: Study) -> Sequence[tuple[str, str]]:
    """Label and file of every evaluation, relative to the study folder: where the rows lie without a script."""
    return [(entry.label, f"{entry.eval}/rows.jsonl") for entry in study.file.entries]
