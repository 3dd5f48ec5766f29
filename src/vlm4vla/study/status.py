"""``vlm4vla study status``: every part of a study with its state, its times, and what is left to do.

Reads files and locks alone, so it may be asked while the study runs; nothing is started and nothing is changed.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm4vla import config as configs
from vlm4vla import records
from vlm4vla.schemas import EvalConfig, StudyConfig
from vlm4vla.study import cells, selection, state, tuning
from vlm4vla.types import refuse


def find(study: Path, out: Path | None, overrides: Sequence[str]) -> tuple[StudyConfig, Path]:
    """Settings and folder of a study that is named by its folder, or by its file and the folder that it runs in."""
    if study.is_dir():
        if not (study / "study.yaml").is_file():
            raise refuse(
                f"{study} holds no study.yaml",
                possible="the --out of `vlm4vla study run`, or a study's YAML file",
                todo="Give one of them.",
            )
        return configs.load(StudyConfig, study / "study.yaml", overrides), study
    config = configs.load(StudyConfig, study, overrides)
    return config, out or (study.parent if study.name == "study.yaml" else Path("runs") / config.name)


def status(config: StudyConfig, out: Path) -> dict[str, Any]:
    """All parts in the order in which they run; ``counts``: state -> how many; ``left``: steps and episodes to run."""
    chosen = tuning.factors(config, out)
    first = cells.pretext(config)
    parts = [] if first is None else [*_demos(first, out), *_stores(first, out)]
    parts += [_cell(cell, "pretext") for cell in cells.pretexts(config, out)]
    parts += [*_demos(config, out), *_stores(config, out)]
    parts += [_reference(reference) for reference in cells.references(config, out)]
    parts += [_cell(trial.cell, "tuning") for trial in cells.trials(config, out)]
    parts += [_cell(cell, "cell") for cell in cells.cells(config, out, chosen)]
    if chosen is not None:  # the rate, and so the folder, of these is not known yet
        parts += [_untuned(cell) for cell in cells.cells(config, out) if cell.arm not in chosen]
    counts = Counter(part["state"] for part in parts)
    left: Counter[str] = Counter()
    for part in parts:
        left.update(part["left"])
    return {
        "study": config.name,
        "folder": str(out),
        "running": records.held(out),
        "counts": dict(counts),
        "left": dict(left),
        "parts": parts,
    }


def sentences(found: dict[str, Any]) -> list[str]:
    """One line per part, and what remains in all."""
    width = max(len(part["name"]) for part in found["parts"])
    lines = [f"{found['study']} in {found['folder']}" + (": a run is at work" if found["running"] else "")]
    for part in found["parts"]:
        seconds = sum(times["wall_s"] or 0.0 for times in part["times"].values())
        took = f", {seconds:.0f} s" if seconds else ""
        left = f", left: {_left(part['left'])}" if part["left"] else ""
        lines.append(f"{part['name']:{width}}  {part['state']}{took}{left}")
        if part["failure"] is not None:
            lines.append(f"{'':{width}}  {part['failure']['message']}")
            lines.append(f"{'':{width}}  {part['failure']['when']}, log: {part['log']}")
    told = ", ".join(f"{count} {name}" for name, count in found["counts"].items())
    return [*lines, f"{told}; left: {_left(found['left']) or 'nothing'}"]


def _left(left: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in left.items())


def _part(name: str, stage: str, where: Path, now: state.State, **more: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"times": {}, "left": {}, "failure": None, "log": None}
    return {"name": name, "stage": stage, "state": now, "folder": str(where), **plain, **more}


def _demos(config: StudyConfig, out: Path) -> list[dict[str, Any]]:
    demos = cells.demos(config, out)
    if demos is None:
        return []
    record = state.record_of(demos.out)
    done = record is not None and record.finished is not None
    times = {"demos": state.times_of(demos.out)} if record else {}
    return [_part("demos", "demos", demos.out, _of_folder(demos.out, done), times=times)]


def _stores(config: StudyConfig, out: Path) -> list[dict[str, Any]]:
    sizes = sorted({cells.recipe(config, arm).policy.backbone.view for arm in config.arms})
    folders = [(size, cells.store_folder(config, out, size)) for size in sizes]
    return [
        _part(f"store of {size} pixels", "store", f, _of_folder(f, (f / "manifest.json").is_file()))
        for size, f in folders
    ]


def _reference(config: EvalConfig) -> dict[str, Any]:
    done = state.evaluated(config)
    times = {"eval": found} if (found := state.times_of(config.out)) else {}
    left = {} if done else {"episodes": state.episodes_of(config) - state.episodes_done(config)}
    return _part(config.arm, "reference", config.out, _of_folder(config.out, done), times=times, left=left)


def _untuned(cell: cells.Cell) -> dict[str, Any]:
    part = _part(cell.name, "cell", Path(), "missing", left=_work(cell))
    return part | {"folder": None}


def _cell(cell: cells.Cell, stage: str) -> dict[str, Any]:
    now = state.state_of(cell)
    runs = {"train": cell.train.out, "eval": cell.eval.out}
    runs |= {config.out.name: config.out for config in selection.candidates(cell)}
    times = {name: found for name, run in runs.items() if (found := state.times_of(run))}
    return _part(
        cell.name,
        stage,
        cell.folder,
        now,
        times=times,
        left={} if now == "finished" else _work(cell),
        failure=state.last_failure(cell.folder) if now == "failed" else None,
        log=str(cell.log) if cell.log.is_file() else None,
    )


def _work(cell: cells.Cell) -> dict[str, int]:
    """Steps and episodes that an unfinished cell has before it."""
    evaluations = [*selection.candidates(cell), cell.eval]
    left = {
        "training steps": cell.train.steps - state.steps_done(cell.train),
        "episodes": sum(state.episodes_of(config) - state.episodes_done(config) for config in evaluations),
    }
    return {what: count for what, count in left.items() if count > 0}


def _of_folder(folder: Path, done: bool) -> state.State:
    if done:
        return "finished"
    if records.held(folder):
        return "running"
    return "stopped" if folder.is_dir() else "missing"
