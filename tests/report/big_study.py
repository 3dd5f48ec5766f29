"""A synthetic study folder of any size, true to the schema, with the product's own statistics: 200 cells by default.

    python tests/report/big_study.py FOLDER [--recipes 20] [--seeds 10] [--videos]

Each checkpoint has 5 tasks x 8 episodes, and 2 more per task under a control: 50 rows, 10,000 in all, beside the
references. Outcomes are drawn: recipes differ, training seeds vary around them, starts are shared.
"""

import argparse
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from synthetic_study import BENCHMARK, run_record, write_video

from vlm4vla.records import EpisodeRow, ParameterCount, write_all, write_atomic, write_one
from vlm4vla.report.sentences import row_name
from vlm4vla.study import compare, recipes

TASKS = ("button-press-topdown-v3", "drawer-open-v3", "window-close-v3", "peg-insert-side-v3", "door-open-v3")
FAILURES = ("step limit", "object dropped", "left the workspace")
CONTROL = "image-blank"


def make_big_study(
    folder: Path,
    *,
    recipes_: int = 20,
    seeds: int = 10,
    tasks: Sequence[str] = TASKS,
    episodes: int = 8,
    blank_episodes: int = 2,
    steps: int = 2000,
    videos: bool = False,
    labels: Sequence[str] = (),
    failures: Sequence[str] = FAILURES,
    chain: int | None = None,
) -> Path:
    """Write the folder; one training seed makes a study of checkpoints, several one of recipes.

    ``chain``: subtasks of an episode, where episodes are chains of them.
    """
    names = [f"vlm{r:02d}" for r in range(recipes_)]
    told = dict(zip(names, [*labels, *(f"VLM {r:02d}, 2B" for r in range(len(labels), recipes_))], strict=True))
    draw = np.random.default_rng(recipes_)
    skill = dict(zip(names, np.sort(draw.normal(0.6, 1.0, recipes_))[::-1], strict=True))
    runs: dict[str, list[list[EpisodeRow]]] = {}
    arms, everything, found = [], [], []
    for recipe in names:
        for seed in range(seeds):
            arm = f"{recipe}-s{seed}"
            logit = skill[recipe] + draw.normal(0, 0.35)
            own = _rows(arm, None, tasks, episodes, logit, failures, chain)
            blank = _rows(arm, CONTROL, tasks, blank_episodes, logit - 3, failures, chain)
            if videos:
                own = [r.model_copy(update={"video": f"videos/{r.episode}.mp4"}) if r.episode == 0 else r for r in own]
            _evaluation(folder, arm, [*own, *blank], seed)
            _training(folder / f"cells/{arm}/train", arm, seed, steps)
            runs.setdefault(recipe, []).append(own)
            everything += [*own, *blank]
            label = told[recipe] if seeds == 1 else f"{told[recipe]}, seed {seed}"
            entry = {"name": arm, "label": label, "run": f"cells/{arm}/train", "eval": f"cells/{arm}/eval"}
            arms.append(entry | {"recipe": recipe, "recipe_label": told[recipe]})
            found.append((arm, own, blank))
    floor = _rows("do-nothing", None, tasks, episodes, -9.0, failures, chain)
    ceiling = _rows("expert", None, tasks, episodes, 6.0, failures, chain)
    _evaluation(folder, "do-nothing", floor, 0)
    _evaluation(folder, "expert", ceiling, 0)
    means, differences = recipes.conclude(runs, equivalence=0.05) if seeds > 1 else ([], [])
    pairs = [(own, blank, arm, row_name(arm, CONTROL)) for arm, own, blank in found if blank]
    pairs += [(own, floor, arm, "do-nothing") for arm, own, _ in found]
    if seeds == 1:
        pairs += [(found[0][1], own, found[0][0], arm) for arm, own, _ in found[1:]]
    checkpoints = compare.adjusted([compare.compare(*pair, resamples=1000) for pair in pairs])
    write_all(folder / "estimates.jsonl", [*means, *compare.estimates([*floor, *ceiling, *everything])])
    write_all(folder / "comparisons.jsonl", [*differences, *checkpoints])
    write_atomic(folder / "audit.json", json.dumps(_audit(names, [arm for arm, *_ in found])))
    document = {
        "name": "big",
        "title": f"Which of {recipes_} VLMs makes the better policy?",
        "caveat": "Made-up rows: they show the page, and nothing about any model.",
        "factor": "the VLM",
        "benchmark": BENCHMARK,
        "tasks": list(tasks),
        "instructions": {task: f"do what {task} says" for task in tasks},
        "arms": arms,
        "references": [
            {"name": n, "label": n.replace("-", " "), "eval": f"cells/{n}/eval"} for n in ("do-nothing", "expert")
        ],
        "command": "vlm4vla study run studies/main_table.yaml --out runs/main_table",
        "created": "2026-11-20T06:02:11Z",
        "wall_s": {"demos": 420.0, "train": 183_000.0, "eval": 65_500.0},
        "estimate_s": 240_000.0,
    }
    write_atomic(folder / "study.json", json.dumps(document))
    if videos:
        _videos(folder, [arm for arm, *_ in found])
    return folder


def _rows(
    arm: str,
    control: str | None,
    tasks: Sequence[str],
    n: int,
    logit: float,
    failures: Sequence[str],
    chain: int | None,
) -> list[EpisodeRow]:
    own = np.random.default_rng(list((arm + (control or "")).encode()))
    rows = []
    for k, task in enumerate(tasks):
        for i in range(n):
            start = np.random.default_rng([k, i]).normal()
            chance = 1 / (1 + math.exp(-(logit + 0.5 * start - 0.4 * (k - 2))))
            solved = 0
            while solved < (chain or 1) and own.random() < chance:
                solved += 1
            success = solved == (chain or 1)
            rows.append(
                EpisodeRow(
                    run=f"eval-{arm}", arm=arm, control=control, benchmark=BENCHMARK, task=task, episode=i,
                    seed=100_000 + 1000 * k + i, success=success, steps=80 + i if success else 200,
                    first_success_step=75 + i if success else None,
                    failure=None if success else failures[int(own.integers(len(failures)))], video=None, wall_s=1.5,
                    completed=None if chain is None else solved, subtasks=chain,
                    initial_state=None if chain is None else i,
                )
            )  # fmt: skip
    return rows


def _evaluation(folder: Path, arm: str, rows: Sequence[EpisodeRow], seed: int) -> None:
    run = folder / f"cells/{arm}/eval"
    write_one(run / "run.json", run_record(f"eval-{arm}", "eval", seed=seed, facts={"chunk": 10, "evaluation": 1}))
    write_all(run / "rows.jsonl", rows)


def _training(folder: Path, arm: str, seed: int, steps: int) -> None:
    groups = {"vision": 409_600_000, "connector": 6_553_600, "language": 1_543_714_304, "embedding": 233_373_696}
    parameters = [ParameterCount(group=g, total=n, trainable=n, new=0) for g, n in groups.items()]
    parameters.append(ParameterCount(group="head", total=4_018_023, trainable=4_018_023, new=4_018_023))
    write_one(folder / "run.json", run_record(f"train-{arm}", "train", seed=seed, parameters=parameters))
    noise = np.random.default_rng(list(arm.encode())).random((steps // 20, 2))
    lines = [
        {
            "step": 20 * i, "samples": 640 * i, "loss": 0.3 * math.exp(-i / 25) + 0.02 + 0.01 * a,
            "arm_loss": 0.29 * math.exp(-i / 25) + 0.02 + 0.01 * a, "gripper_loss": 0.6 * math.exp(-i / 30) + 0.05 * b,
            "grad_norm": 2 * math.exp(-i / 40) + 0.4 * b, "lr": 2e-5,
        }
        for i, (a, b) in enumerate(noise.tolist(), start=1)
    ]  # fmt: skip
    write_atomic(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _audit(names: Sequence[str], arms: Sequence[str]) -> dict[str, object]:
    """Settings by recipe and recorded facts by checkpoint, as `study audit` has them."""

    def row(setting: str, kind: str, values: dict[str, object], reason: str | None = None) -> dict[str, object]:
        differs = len({repr(v) for v in values.values()}) > 1 and kind != "declared"
        allowed = reason is not None
        return {"setting": setting, "class": kind, "values": values, "differs": differs, "allowed": allowed,
                "reason": reason}  # fmt: skip

    rows = [row("policy.backbone.checkpoint", "must-equal", {n: f"hub/{n}-2b" for n in names}, "the VLM")]
    rows += [row(f"setting_{i}", "must-equal", dict.fromkeys(names, i)) for i in range(40)]
    rows += [row(f"recorded.fact_{i}", "must-equal", dict.fromkeys(arms, f"value {i}")) for i in range(30)]
    rows.append(row("recorded.precision", "must-equal", {a: "fp32" if a == arms[-1] else "bf16" for a in arms}))
    native = {a: 256 + 64 * (i // 40) for i, a in enumerate(arms)}
    rows.append(row("recorded.image_tokens", "may-differ", native, "native to the model"))
    rows.append(row("pretraining data", "declared", {n: f"as {n}'s card says" for n in names}, "declared"))
    faults = [str(r["setting"]) for r in rows if r["differs"] and not r["allowed"]]
    return {"factor": "the VLM", "ok": not faults, "faults": faults, "rows": rows}


def _videos(folder: Path, arms: Sequence[str]) -> None:
    """One file per checkpoint; all tasks of episode 0 share it, as this is about numbers and not about pictures."""
    for i, arm in enumerate(arms):
        path = folder / f"cells/{arm}/eval/videos/0.mp4"
        if i < 5:
            write_video(path, seed=i)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / f"cells/{arms[i % 5]}/eval/videos/0.mp4", path)
            with path.open("ab") as f:  # other bytes, the same pictures
                f.write(b"\x00\x00\x00\x0cfree" + i.to_bytes(4, "big"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipes", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--videos", action="store_true")
    given = parser.parse_args()
    make_big_study(given.folder, recipes_=given.recipes, seeds=given.seeds, videos=given.videos)
