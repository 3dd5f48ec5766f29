"""A study as cells: each training, evaluation and reference run with the folder that its content hash names.

Two studies, or two edits of one, share every cell whose settings are equal; a changed setting makes a new folder and
leaves the old one alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm4vla import config as configs
from vlm4vla import registry
from vlm4vla.choices import PRETEXT, Select
from vlm4vla.schemas import ArmConfig, DemosConfig, EvalConfig, StudyConfig, StudyTrain, TrainConfig
from vlm4vla.types import refuse


@dataclass(frozen=True)
class Cell:
    """One arm with one seed: how it is trained, and how it is evaluated. ``eval.arm`` names its rows.

    With ``select``, policy and horizon of ``eval`` stand for those that will be chosen: ``selection.final`` gives them.
    """

    arm: str
    seed: int
    train: TrainConfig
    eval: EvalConfig
    benchmark: str
    select: Select | None = None
    start: Path | None = None  # the folder of the pretext's VLM that it starts from, which must be there first

    @property
    def name(self) -> str:
        """Name of its rows."""
        return self.eval.arm

    @property
    def folder(self) -> Path:
        return self.train.out.parent

    @property
    def vlm(self) -> Path:
        """Where a pretext's VLM is handed on, without the head that it was trained with."""
        return self.folder / "vlm"

    @property
    def log(self) -> Path:
        """What training and evaluation say."""
        return self.folder / "cell.log"


@dataclass(frozen=True)
class Trial:
    """An arm tried with a multiple of its learning rate, by a cell that is evaluated on dev starts alone."""

    arm: str
    factor: float
    cell: Cell


def recipe(study: StudyConfig, arm: str, factor: float = 1.0) -> StudyTrain:
    """The shared recipe with the arm's overrides; ``factor`` multiplies its learning rate."""
    changed = configs.override(configs.to_dict(study.train), study.arms[arm].overrides)
    changed["optimizer"]["lr"] *= factor
    return configs.validate(StudyTrain, changed, source=f"arm {arm!r} of study {study.name!r}")


def begun(study: StudyConfig, own: StudyTrain) -> StudyTrain:
    """A recipe that can be looked at before anything has run: a pretext's VLM has its architecture's random weights."""
    backbone = own.policy.backbone
    if backbone.checkpoint != PRETEXT:
        return own
    if study.pretext is None or backbone.init != "pretrained":
        raise refuse(
            f"An arm of study {study.name!r} has the checkpoint {PRETEXT!r} with init {backbone.init}",
            possible="init: pretrained, in a study with a section `pretext`",
            todo="Write the section, or name another checkpoint.",
        )
    scratch = backbone.model_copy(update={"checkpoint": study.pretext.checkpoint, "init": "scratch"})
    return own.model_copy(update={"policy": own.policy.model_copy(update={"backbone": scratch})})


def row_name(study: StudyConfig, arm: str, seed: int) -> str:
    """Name of a policy's rows. With several seeds each is a row of its own: checkpoints are never pooled."""
    return arm if len(study.seeds) == 1 else f"{arm}-s{seed}"


def version(study: StudyConfig) -> str:
    """The benchmark's id: rows and demonstrations of two versions never share a folder."""
    identity: str = registry.find("bench", study.bench).Benchmark().id
    return identity


def demos(study: StudyConfig, out: Path) -> DemosConfig | None:
    """The demonstrations of the study; null where its data are recorded by others."""
    if study.demos is None:
        return None
    chains = getattr(registry.find("bench", study.bench).Benchmark(), "chains", ())
    tasks = study.demos.tasks or [task for task in study.tasks if task not in chains]
    if not tasks:
        raise refuse(
            f"The tasks of study {study.name!r} are chains, of which no demonstrations are recorded",
            possible="demos.tasks: single tasks of the benchmark, such as those that the chains are made of",
            todo="Name the tasks to record in demos.tasks.",
        )
    settings: dict[str, Any] = {"bench": study.bench, **configs.to_dict(study.demos), "tasks": list(tasks)}
    folder = out / f"demos-{configs.digest({**settings, 'benchmark': version(study)})}"
    return DemosConfig(**settings, workers=study.eval.workers, out=folder)


def store_folder(study: StudyConfig, out: Path, size: int) -> Path:
    """The frame store's folder: named after the demonstrations or data and the picture size that it holds."""
    made = demos(study, out)
    identity: dict[str, Any] = {"image_size": size, "encoding": study.encoding}
    if made is not None:
        identity["demos"] = made.out.name
    else:
        assert study.data is not None
        identity["data"] = configs.to_dict(study.data)
    return out / f"store-{configs.digest(identity)}"


def store_words(study: StudyConfig, out: Path, size: int) -> list[str]:
    """The words behind ``vlm4vla`` that build this store."""
    made, data = demos(study, out), study.data
    if made is not None:
        words = [str(made.out), "--format", str(made.format)]
    else:
        assert data is not None
        words = [str(data.source), "--format", data.format]
        words += [word for key, value in data.options.items() for word in ("--option", f"{key}={value}")]
    store = store_folder(study, out, size)
    return ["data", "build", *words, "--out", str(store), "--image-size", str(size), "--encoding", study.encoding]


def cells(study: StudyConfig, out: Path, factors: Mapping[str, float] | None = None) -> list[Cell]:
    """Every arm with every seed.

    ``factors``: arm -> the factor of its learning rate that tuning chose; arms without
    one are left out. Null: the rates as the arms' recipes have them.
    """
    arms = list(study.arms) if factors is None else [arm for arm in study.arms if arm in factors]
    starts = starts_of(study, out)
    found: list[Cell] = []
    for arm in arms:
        for seed in study.seeds:
            keep = () if study.select is None or study.select.checkpoints == "last" else study.select.checkpoints
            train = _train(study, out, arm, seed, 1.0 if factors is None else factors[arm], keep, starts.get(arm))
            name, controls = row_name(study, arm, seed), study.arms[arm].controls
            evaluation = _eval(study, train.out.parent, name, seed, controls, select=study.select)
            found.append(Cell(arm, seed, train, evaluation, version(study), study.select, _vlm(starts, arm)))
    return found


def trials(study: StudyConfig, out: Path) -> list[Trial]:
    """Every arm with every factor of the study's grid of learning rates; [] under ``lr_policy: fixed``."""
    grid = study.grid
    starts = starts_of(study, out) if grid else {}
    found: list[Trial] = []
    for arm in study.arms:
        for factor in grid.factors if grid else ():
            assert grid is not None
            train = _train(study, out, arm, grid.seed, factor, (), starts.get(arm))
            changes: dict[str, Any] = {
                "split": "dev",
                "episodes": grid.episodes or study.eval.episodes,
                "videos_per_task": 0,
            }
            changes["control_episodes"] = None
            name = f"{arm}-x{factor:g}"
            evaluation = _eval(study, train.out.parent, name, grid.seed, (), changes=changes)
            cell = Cell(arm, grid.seed, train, evaluation, version(study), start=_vlm(starts, arm))
            found.append(Trial(arm, factor, cell))
    return found


def pretext(study: StudyConfig) -> StudyConfig | None:
    """The pretext as a study of its own, with an arm for every backbone that starts from it; null without any."""
    arms: dict[str, ArmConfig] = {}
    for arm in study.arms:
        own = recipe(study, arm)
        if own.policy.backbone.checkpoint == PRETEXT:
            name, plain = _pretext_arm(study, own)
            overrides = {f"policy.backbone.{key}": value for key, value in plain.items()}
            arms[name] = ArmConfig(label=name, overrides=overrides)
    if not arms:
        return None
    assert study.pretext is not None and study.demos is not None  # ``begun`` and the schema refuse it
    train = study.train.model_copy(update={"steps": study.pretext.steps, "freeze": ()})
    demos = study.demos.model_copy(update={"per_task": study.pretext.per_task, "tasks": ()})
    changes = {"tasks": study.pretext.tasks, "train": train, "demos": demos, "arms": arms, "pretext": None}
    return study.model_copy(update=changes | {"select": None, "lr_policy": "fixed", "seeds": (study.pretext.seed,)})


def pretexts(study: StudyConfig, out: Path) -> list[Cell]:
    """Each backbone that arms start pretext with, trained on it once and tried on dev starts of its tasks."""
    first = pretext(study)
    if first is None:
        return []
    assert study.pretext is not None
    changes = {"split": "dev", "episodes": study.pretext.episodes, "videos_per_task": 0, "control_episodes": None}
    found: list[Cell] = []
    for arm, seed in ((arm, seed) for arm in first.arms for seed in first.seeds):
        train = _train(first, out, arm, seed, 1.0, (), None)
        evaluation = _eval(first, train.out.parent, arm, seed, (), changes=changes)
        found.append(Cell(arm, seed, train, evaluation, version(study)))
    return found


def starts_of(study: StudyConfig, out: Path) -> dict[str, Cell]:
    """Arm -> the pretext's cell whose VLM it starts from; arms that start from other checkpoints are left out."""
    first = {cell.arm: cell for cell in pretexts(study, out)}
    recipes = {arm: recipe(study, arm) for arm in study.arms} if first else {}
    return {
        arm: first[_pretext_arm(study, own)[0]]
        for arm, own in recipes.items()
        if own.policy.backbone.checkpoint == PRETEXT
    }


def _vlm(starts: Mapping[str, Cell], arm: str) -> Path | None:
    return starts[arm].vlm if arm in starts else None


def _pretext_arm(study: StudyConfig, own: StudyTrain) -> tuple[str, dict[str, Any]]:
    """Name and backbone settings of the pretext's arm that an arm with this recipe starts from."""
    plain = configs.to_dict(begun(study, own).policy.backbone)
    return f"{PRETEXT}-{plain['family']}-{configs.digest(plain)[:4]}", plain


def references(study: StudyConfig, out: Path) -> list[EvalConfig]:
    """Floor and ceiling: scripted policies on the same starts."""
    return [_eval(study, out / "references", name, 0, (), f"builtin:{name}") for name in study.references]


def _train(
    study: StudyConfig,
    out: Path,
    arm: str,
    seed: int,
    factor: float,
    keep: tuple[int, ...],
    start: Cell | None,
) -> TrainConfig:
    own = recipe(study, arm, factor)
    plain = configs.to_dict(own)
    store = store_folder(study, out, own.policy.backbone.view)
    before_the_last = [step for step in keep if step != own.steps]
    named = {"train": plain, "seed": seed, "store": store.name, "keep": before_the_last}
    if start is not None:
        named["pretext"] = start.folder.name
    identity = configs.digest(named)
    if start is not None:
        plain["policy"]["backbone"]["checkpoint"] = str(start.vlm)
    folder = out / "cells" / f"{arm}-s{seed}-{identity}"
    data = {"store": store, "augment": plain.pop("augment"), "workers": plain.pop("loader_workers")}
    settings = {**plain, "data": data, "seed": seed, "keep": before_the_last, "out": folder / "train"}
    return configs.validate(TrainConfig, settings, source=f"arm {arm!r} of study {study.name!r}")


def _eval(
    study: StudyConfig,
    folder: Path,
    arm: str,
    seed: int,
    controls: tuple[str, ...],
    policy: str | None = None,
    select: Select | None = None,
    changes: Mapping[str, Any] | None = None,
) -> EvalConfig:
    """``changes``: settings that are not those of the study's ``eval``."""
    settings: dict[str, Any] = {
        **configs.to_dict(study.eval),
        "policy": policy or str(folder / "train" / "policy"),
        "bench": study.bench,
        "tasks": list(study.tasks),
        "controls": [None, *controls],
        "arm": arm,
        "seed": seed,
        **(changes or {}),
    }
    if policy is not None:  # a scripted policy's pictures would have to be rendered for the video alone
        settings["videos_per_task"] = 0
    rule = {} if select is None else {"select": configs.to_dict(select)}
    return EvalConfig(**settings, out=folder / f"eval-{arm}-{digest(settings | rule, version(study))}")


def digest(settings: Mapping[str, Any], benchmark: str) -> str:
    """Names an evaluation by what can change its rows, beside the policy, whose folder it lies in."""
    shown = {k: v for k, v in settings.items() if k not in ("policy", "workers", "videos_per_task", "out")}
    return configs.digest({**shown, "benchmark": benchmark})
