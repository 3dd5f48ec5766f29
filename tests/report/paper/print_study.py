"""Study folders with several recipes, seeds and tasks, as ``study run`` leaves them, for the tests of print output."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlm4vla.records import EpisodeRow, ParameterCount, RunRecord, write_all, write_atomic, write_one
from vlm4vla.report.paper.record import FILE, Appendix, Tried
from vlm4vla.study import appendix, compare, recipes, tuning

BENCHMARK = "bench-v1"
VLMS = ("Qwen2.5-VL", "Qwen3-VL", "PaliGemma", "Kosmos-2")
TASKS = ("drawer-open", "drawer-close", "window-open", "window-close")
FROZEN = {"full": (), "vision": ("vision",), "words": ("embedding",)}
LONGEST = 5


def backbone(vlm: str) -> dict[str, object]:
    return {"family": vlm.lower(), "checkpoint": "preset:tiny", "init": "scratch"}


def run_record(name: str, kind: str, config: dict[str, object], seed: int = 0, **more: object) -> RunRecord:
    facts = {
        "run": name, "kind": kind, "config": config, "config_hash": "0", "commit": None, "dirty": None, "packages": {},
        "hardware": {}, "seed": seed, "started": "2026-11-20T05:20:00Z", "wall_s": 1.0,
    }  # fmt: skip
    return RunRecord.model_validate(facts | more)


def rows_of(
    arm: str, rate: float, seed: int, tasks: Sequence[str], starts: int, sd: float = 0.06, chains: bool = False
) -> list[EpisodeRow]:
    """Outcomes of one training run: a retrained level on each task, and luck that starts share."""
    own = np.random.default_rng([seed, *arm.encode()])
    level = rate + sd * own.standard_normal()
    found = []
    for k, task in enumerate(tasks):
        here = np.clip(level + 0.15 * np.sin(2 * k) + 0.03 * own.standard_normal(), 0.02, 0.98)
        for i in range(starts):
            state = i // 3
            shared = np.random.default_rng([k, state if chains else i]).random()
            draws = 0.4 * shared + 0.6 * own.random(LONGEST)
            solved = [bool(x < 0.2 + 0.6 * here) for x in draws]
            length = LONGEST if all(solved) else solved.index(False)
            found.append(
                EpisodeRow(
                    run=f"eval-{arm}", arm=arm, control=None, benchmark=BENCHMARK, task=task, episode=i,
                    seed=1000 * k + i, success=length == LONGEST if chains else solved[0], steps=50,
                    first_success_step=None, failure=None, video=None, wall_s=1.0,
                    completed=length if chains else None, subtasks=LONGEST if chains else None,
                    initial_state=state if chains else None,
                )
            )  # fmt: skip
    return found


def make(
    folder: Path,
    *,
    labels: Sequence[str] = VLMS,
    seeds: int = 3,
    tasks: Sequence[str] = TASKS,
    starts: int = 20,
    rates: Sequence[float] = (0.62, 0.5, 0.58, 0.3),
    equivalence: float | None = 0.1,
    freezing: bool = False,
    chains: bool = False,
    grid: bool = False,
    tried: Appendix | None = None,
    benchmark: str = BENCHMARK,
    checkpoints: Sequence[str] = (),
    versions: dict[str, str] | None = None,
) -> Path:
    """``freezing``: the labels are models, each with three arms. ``checkpoints``: of the arms, pretrained."""
    tasks = ("chain",) if chains else tuple(tasks)
    names: list[tuple[str, str, dict[str, object], tuple[str, ...]]] = []
    for i, label in enumerate(labels):
        model = backbone(label)
        if checkpoints:
            model = {"family": "x", "checkpoint": checkpoints[i], "init": "pretrained"}
        if freezing:
            names += [(f"a{i}-{k}", f"{label}, {k}", model, groups) for k, groups in FROZEN.items()]
        else:
            names.append((f"a{i}", label, model, ()))
    runs: dict[str, list[list[EpisodeRow]]] = {}
    arms, rows = [], []
    for i, (name, label, model, frozen) in enumerate(names):
        rate = rates[(i // 3 if freezing else i) % len(rates)] - 0.25 * (frozen == ("vision",))
        for seed in range(seeds):
            arm = name if seeds == 1 else f"{name}-s{seed}"
            own = [
                r.model_copy(update={"benchmark": benchmark})
                for r in rows_of(arm, rate, seed, tasks, starts, chains=chains)
            ]
            config = {"policy": {"backbone": model, "chunk": 8}, "batch": 32, "steps": 300, "freeze": list(frozen)}
            write_one(folder / f"eval-{arm}/run.json", run_record(f"eval-{arm}", "eval", {}, versions=versions or {}))
            write_all(folder / f"eval-{arm}/rows.jsonl", own)
            parameters = [
                ParameterCount(
                    group="vision", total=1_900_000 + i, trainable=0 if frozen == ("vision",) else 1_900_000 + i, new=0
                ),
                ParameterCount(group="language", total=3_100_000, trainable=3_100_000, new=0),
                ParameterCount(group="query and head", total=900_000, trainable=900_000, new=900_000),
            ]
            facts = {"frozen_groups": list(frozen), "tokens_per_sample": 32 + i, "image_tokens": 9, "model_pixels": 96}
            facts["flops_per_sample"] = 4.2e9 + i
            record = run_record(f"train-{arm}", "train", config, seed, parameters=parameters, facts=facts)
            write_one(folder / f"train-{arm}/run.json", record)
            arms.append(
                {"name": arm, "label": label if seeds == 1 else f"{label}, seed {seed}", "recipe": name,
                 "recipe_label": label, "run": f"train-{arm}", "eval": f"eval-{arm}"}
            )  # fmt: skip
            runs.setdefault(name, []).append(own)
            rows += own
    means, differences = recipes.conclude(runs, equivalence=equivalence) if seeds > 1 else ([], [])
    if seeds == 1:
        first, *others = runs
        pairs = [(runs[first][0], runs[other][0], first, other) for other in others]
        differences = compare.adjusted([compare.compare(*pair) for pair in pairs])
    write_all(folder / "estimates.jsonl", [*means, *compare.estimates(rows)])
    write_all(folder / "comparisons.jsonl", differences)
    parts = appendix.variance(runs)
    made = Appendix(
        tasks=tuple(appendix.per_task(runs)), variance=tuple(parts), power=appendix.power(runs, parts),
        chains=tuple(appendix.in_a_row(runs)), tried=tried.tried if tried else (),
    )  # fmt: skip
    write_one(folder / FILE, made)
    write_atomic(folder / "audit.json", json.dumps(audit([str(arm["name"]) for arm in arms])))
    document = {
        "name": "s", "title": "Four VLMs, tiny", "caveat": "Tiny models: nothing here is about VLMs.",
        "factor": "the VLM", "benchmark": benchmark, "tasks": list(tasks), "instructions": {}, "arms": arms,
        "references": [], "command": "x", "created": "2026-11-20T05:20:00Z", "wall_s": {}, "estimate_s": None,
        "tuning": learning_rates(list(runs)) if grid else None,
    }  # fmt: skip
    write_atomic(folder / "study.json", json.dumps(document))
    return folder


def learning_rates(names: Sequence[str]) -> dict[str, object]:
    """Three rates; the first two arms change places between the first and the last."""
    scores = {name: {0.33: 0.4 + 0.02 * i, 1.0: 0.5, 3.0: 0.45 - 0.03 * i} for i, name in enumerate(names)}
    return {
        "factors": [0.33, 1.0, 3.0], "seed": 9, "episodes": 10, "flips": tuning.flips(scores),
        "arms": [
            {"arm": n, "rates": [1e-5, 3e-5, 9e-5], "scores": list(s.values()), "chosen": tuning.best(s)}
            for n, s in scores.items()
        ],
    }  # fmt: skip


def audit(names: Sequence[str]) -> dict[str, object]:
    def row(setting: str, kind: str, values: list[object], allowed: bool, reason: str | None) -> dict[str, object]:
        told = dict(zip(names, values, strict=True))
        differs = len({repr(v) for v in values}) > 1
        return {
            "setting": setting,
            "class": kind,
            "values": told,
            "differs": differs,
            "allowed": allowed,
            "reason": reason,
        }

    same: list[object] = [32] * len(names)
    return {
        "factor": "the VLM", "ok": False, "faults": ["optimizer.lr"],
        "rows": [
            row("policy.backbone.family", "must-equal", [n.split("-")[0] for n in names], True, "the VLM"),
            row("optimizer.lr", "must-equal", [2e-5 if i else 5e-5 for i in range(len(names))], False, None),
            row("recorded.prompt", "may-differ", ["<|im_start|> 50% & $x_1$ " * 9 for _ in names], True, "native"),
            row("batch", "must-equal", same, True, None),
            row("release date", "declared", ["unknown"] * len(names), True, "cannot be equalised"),
        ],
    }  # fmt: skip


def tried(
    arms: int = 4, seeds: int = 3, steps: Sequence[int] = (100, 200, 300), horizons: Sequence[int] = (4, 8)
) -> Appendix:
    """Checkpoints and horizons that were tried; the second checkpoint was chosen."""
    generator = np.random.default_rng(0)
    found = []
    for step in steps:
        for execute in horizons:
            for i in range(arms):
                scores = [
                    float(np.clip(0.2 + 0.1 * i + 0.1 * step / 300 + x, 0, 1))
                    for x in 0.03 * generator.standard_normal(seeds)
                ]
                mean = sum(scores) / seeds
                found.append(
                    Tried(
                        arm=f"a{i}", on="dev", step=step, execute=execute, scores=tuple(scores), chains=False,
                        runs=tuple(f"a{i}-s{k}" for k in range(seeds)), episodes=120,
                        chosen=(step == 200 and execute == 4,) * seeds, mean=mean, low=mean - 0.1,
                        high=mean + 0.1, level=0.95, method="t over runs", estimand="E3",
                    )
                )  # fmt: skip
    return Appendix(tried=tuple(found))
