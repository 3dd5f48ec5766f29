"""A study as cells: each training, evaluation and reference run with the folder that its content hash names.

Two studies, or two edits of one, share every cell whose settings are equal; a changed setting makes a new folder and
leaves the old one alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm4vla import config as configs
from vlm4vla import registry
from vlm4vla.schemas import DemosConfig, EvalConfig, StudyConfig, StudyTrain, TrainConfig


@dataclass(frozen=True)
class Cell:
    """One arm with one seed: how it is trained, and how it is evaluated. ``eval.arm`` names its rows."""

    arm: str
    seed: int
    train: TrainConfig
    eval: EvalConfig


def recipe(study: StudyConfig, arm: str) -> StudyTrain:
    """The shared recipe with the arm's overrides."""
    changed = configs.override(configs.to_dict(study.train), study.arms[arm].overrides)
    return configs.validate(StudyTrain, changed, source=f"arm {arm!r} of study {study.name!r}")


def row_name(study: StudyConfig, arm: str, seed: int) -> str:
    """Name of a policy's rows. With several seeds each is a row of its own: checkpoints are never pooled."""
    return arm if len(study.seeds) == 1 else f"{arm}-s{seed}"


def version(study: StudyConfig) -> str:
    """The benchmark's id: rows and demonstrations of two versions never share a folder."""
    identity: str = registry.find("bench", study.bench).Benchmark().id
    return identity


def demos(study: StudyConfig, out: Path) -> DemosConfig:
    settings: dict[str, Any] = {"bench": study.bench, "tasks": list(study.tasks), **configs.to_dict(study.demos)}
    folder = out / f"demos-{configs.digest({**settings, 'benchmark': version(study)})}"
    return DemosConfig(**settings, workers=study.eval.workers, out=folder)


def store_folder(study: StudyConfig, out: Path, size: int) -> Path:
    """The frame store's folder: named after the demonstrations and the picture size that it holds."""
    identity = {"demos": demos(study, out).out.name, "image_size": size, "encoding": study.encoding}
    return out / f"store-{configs.digest(identity)}"


def cells(study: StudyConfig, out: Path) -> list[Cell]:
    found: list[Cell] = []
    for arm, settings in study.arms.items():
        for seed in study.seeds:
            recipe_of_arm = recipe(study, arm)
            plain = configs.to_dict(recipe_of_arm)
            store = store_folder(study, out, recipe_of_arm.policy.backbone.view)
            identity = configs.digest({"train": plain, "seed": seed, "store": store.name})
            folder = out / "cells" / f"{arm}-s{seed}-{identity}"
            data = {"store": store, "augment": plain.pop("augment"), "workers": plain.pop("loader_workers")}
            settings_of_train = {**plain, "data": data, "seed": seed, "out": folder / "train"}
            train = configs.validate(TrainConfig, settings_of_train, source=f"arm {arm!r} of study {study.name!r}")
            name = row_name(study, arm, seed)
            found.append(Cell(arm, seed, train, _eval(study, folder, name, seed, settings.controls)))
    return found


def references(study: StudyConfig, out: Path) -> list[EvalConfig]:
    """Floor and ceiling: scripted policies on the same starts."""
    return [_eval(study, out / "references", name, 0, (), f"builtin:{name}") for name in study.references]


def _eval(
    study: StudyConfig, folder: Path, arm: str, seed: int, controls: tuple[str, ...], policy: str | None = None
) -> EvalConfig:
    settings: dict[str, Any] = {
        **configs.to_dict(study.eval),
        "policy": policy or str(folder / "train" / "policy"),
        "bench": study.bench,
        "tasks": list(study.tasks),
        "controls": [None, *controls],
        "arm": arm,
        "seed": seed,
    }
    if policy is not None:  # a scripted policy's pictures would have to be rendered for the video alone
        settings["videos_per_task"] = 0
    shown = {k: v for k, v in settings.items() if k not in ("policy", "workers", "videos_per_task")}
    shown["benchmark"] = version(study)
    return EvalConfig(**settings, out=folder / f"eval-{arm}-{configs.digest(shown)}")
