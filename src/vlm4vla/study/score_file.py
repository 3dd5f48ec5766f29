"""Writing a file of VLM scores: JSON, a list of rows, which grows by one VLM after the other."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlm4vla import config as configs
from vlm4vla import records
from vlm4vla.study.scores import ScoreRow, read_scores
from vlm4vla.types import refuse


def check(file: Path, vlm: str, family: str) -> None:
    """Refuse, before anything is measured, a file that could not take the scores of this VLM."""
    if file.suffix != ".json":
        raise refuse(f"{file} is no JSON file", possible="a name ending in .json", todo="Give --out another name.")
    other = next((row.family for row in _rows(file) if row.vlm == vlm and row.family != family), None)
    if other is not None:
        raise refuse(
            f"{file} has {vlm!r} as of family {other!r}, not {family!r}",
            given=family,
            possible=[other],
            todo="Give the same --family, or the VLM another --name.",
        )


def merge(file: Path, new: Sequence[ScoreRow]) -> None:
    """Put rows into the file; one of the same VLM, task, metric, prompt and evaluator is replaced."""
    with records.locked(file.with_suffix(".answers")):
        found = {_key(row): row for row in (*_rows(file), *new)}
        plain = [{k: v for k, v in configs.to_dict(row).items() if v is not None} for row in found.values()]
        records.write_atomic(file, json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def sentence(row: ScoreRow) -> str:
    """A score in words, with what is known of its error."""
    error = "standard error unknown" if row.standard_error is None else f"standard error {row.standard_error:.3f}"
    interval = "" if row.low is None or row.high is None else f", 95 % interval {row.low:.3f} to {row.high:.3f}"
    known = [f"{row.n} questions" if row.n else "", f"prompt {row.prompt}" if row.prompt else "", row.evaluator or ""]
    asked = "".join(f"; {text}" for text in known if text)
    return f"{row.task}, {row.metric} {row.score:.3f} ({error}{interval}{asked})"


def sentences(rows: Iterable[ScoreRow]) -> list[str]:
    """The whole file for people, VLM by VLM."""
    out: list[str] = []
    by_vlm: dict[tuple[str, str], list[ScoreRow]] = {}
    for row in rows:
        by_vlm.setdefault((row.vlm, row.family), []).append(row)
    for (vlm, family), found in by_vlm.items():
        out += [f"{vlm}, of {family}", *(f"  {sentence(row)}" for row in found)]
    return out


def files_of(model: Path) -> dict[str, list[int]]:
    """Name -> size and time of a local checkpoint's files: another checkpoint may take its folder's place.

    {} where it is no folder, but a name on the hub.
    """
    found = [file for file in sorted(model.glob("*")) if file.is_file()] if model.is_dir() else []
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in found}


def _rows(file: Path) -> list[ScoreRow]:
    return read_scores(file) if file.exists() else []


def _key(row: ScoreRow) -> tuple[str | None, ...]:
    return (row.vlm, row.task, row.metric, row.prompt, row.evaluator)
