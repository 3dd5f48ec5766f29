"""A synthetic study folder with real H.264 files: what `study run` leaves, in small."""

import json
from pathlib import Path

import av
import numpy as np

from vlm4vla.records import (
    Comparison,
    EpisodeRow,
    Estimate,
    ParameterCount,
    RunRecord,
    write_all,
    write_atomic,
    write_one,
)
from vlm4vla.study.compare import adjusted, compare, estimates

BENCHMARK = "metaworld@1"
TASKS = ("button-press-topdown-v3", "drawer-open-v3", "window-close-v3")
SENTENCES = ("press the button from above", "open the drawer", "close the window")
RATES = {
    "do-nothing": (0.0, 0.0, 0.0),
    "expert": (1.0, 0.98, 1.0),
    "full": (0.8, 0.55, 0.9),
    "frozen": (0.4, 0.3, 0.7),
}
CONTROLS = {"image-blank": (0.05, 0.02, 0.1), "instruction-swapped": (0.3, 0.2, 0.4)}


def write_video(path: Path, seed: int = 0, frames: int = 24, size: int = 96) -> None:
    """A small moving square on a coloured ground, H.264 yuv420p, as every browser plays it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = np.random.default_rng(seed).integers(120, 220, 3)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            picture = np.full((size, size, 3), ground, dtype=np.uint8)
            at = 8 + i * (size - 40) // frames
            picture[at : at + 24, at : at + 24] = (30, 60, 110)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def run_record(name: str, kind: str, **more: object) -> RunRecord:
    facts: dict[str, object] = {
        "run": name,
        "kind": kind,
        "config": {"steps": 2000},
        "config_hash": "4f1c22ab90de7788",
        "commit": "54e05f4c1b2a39d8e7f60123456789abcdef0123",
        "dirty": False,
        "packages": {"torch": "2.13.0", "transformers": "5.17.0", "numpy": "2.4.6"},
        "hardware": {"cpu": "Example CPU", "cores": 16, "memory_gib": 128.0, "gpu": "Example GPU"},
        "seed": 0,
        "versions": {"metaworld": "3.1.1", "mujoco": "3.3.0", "renderer": "OSMesa 24.2"} if kind == "eval" else {},
        "started": "2026-11-20T05:20:00Z",
        "wall_s": 912.0,
    }
    return RunRecord.model_validate(facts | more)


def episode_rows(
    name: str, control: str | None, rates: tuple[float, ...], tasks: tuple[str, ...], n: int
) -> list[EpisodeRow]:
    """Starts shared between policies (same seeds), outcomes by a fixed draw per start."""
    rows = []
    for k, task in enumerate(tasks):
        for i in range(n):
            u = np.random.default_rng([k, i]).random()
            noise = np.random.default_rng([k, i, *(name + (control or "")).encode()]).random()
            success = bool(0.7 * u + 0.3 * noise < rates[k % len(rates)])
            rows.append(
                EpisodeRow(
                    run=f"eval-{name}", arm=name, control=control, benchmark=BENCHMARK, task=task, episode=i,
                    seed=100_000 + 1000 * k + i, success=success, steps=80 + i if success else 200,
                    first_success_step=75 + i if success else None, failure=None if success else "step limit",
                    video=None, wall_s=1.5,
                )
            )  # fmt: skip
    return rows


def make_study(
    folder: Path,
    *,
    tasks: tuple[str, ...] = TASKS,
    sentences: tuple[str, ...] = SENTENCES,
    episodes: int = 25,
    videos: bool = True,
    training: bool = True,
    audit: bool = True,
    compared: bool = True,
    frames: int = 24,
) -> Path:
    """Write the whole folder. The arms differ in `freeze`; a learning rate differs without leave."""
    labels = {
        "full": "Full fine-tuning",
        "frozen": "Vision frozen",
        "expert": "scripted expert",
        "do-nothing": "do nothing",
    }
    arms = [
        {"name": a, "label": labels[a], "run": f"train-{a}" if training else None, "eval": f"eval-{a}"}
        for a in ("full", "frozen")
    ]
    references = [{"name": r, "label": labels[r], "eval": f"eval-{r}"} for r in ("do-nothing", "expert")]
    document = {
        "name": "freezing",
        "title": "Does the vision encoder have to be trained?",
        "caveat": "A quickstart on a tiny random model: it shows that the machine runs, not which choice is better.",
        "factor": FACTOR,
        "benchmark": BENCHMARK,
        "tasks": list(tasks),
        "instructions": dict(zip(tasks, sentences, strict=False)),
        "arms": arms,
        "references": references,
        "command": "vlm4vla study run studies/freezing.yaml --out runs/freezing",
        "created": "2026-11-20T06:02:11Z",
        "wall_s": {"demos": 42.0, "store": 12.0, "train": 1830.0, "eval": 655.0},
        "estimate_s": 2400.0,
    }
    write_atomic(folder / "study.json", json.dumps(document))
    rows: dict[str, list[EpisodeRow]] = {
        name: episode_rows(name, None, rates, tasks, episodes) for name, rates in RATES.items()
    }
    controls = [
        r for c, rates in CONTROLS.items() for r in episode_rows("full", c, rates, tasks, max(episodes // 2, 1))
    ]
    for i, (name, own) in enumerate(rows.items()):
        if videos and name in ("full", "frozen"):
            own[:] = [r.model_copy(update={"video": f"videos/{r.task}-0.mp4"}) if r.episode == 0 else r for r in own]
            for k, task in enumerate(tasks):
                write_video(folder / f"eval-{name}" / "videos" / f"{task}-0.mp4", seed=10 * i + k, frames=frames)
        write_all(folder / f"eval-{name}" / "rows.jsonl", own + (controls if name == "full" else []))
        write_one(folder / f"eval-{name}" / "run.json", run_record(f"eval-{name}", "eval", facts={"chunk": 8}))
    if training:
        for arm in ("full", "frozen"):
            write_training(folder / f"train-{arm}", arm)
    everything = [r for own in rows.values() for r in own] + controls
    table: list[Estimate] = estimates(everything)
    write_all(folder / "estimates.jsonl", table)
    if compared:
        write_all(folder / "comparisons.jsonl", made_comparisons(rows, controls))
    if audit:
        write_atomic(folder / "audit.json", json.dumps(AUDIT))
    return folder


def made_comparisons(rows: dict[str, list[EpisodeRow]], controls: list[EpisodeRow]) -> list[Comparison]:
    found = [compare(rows["full"], rows["frozen"], "full", "frozen")]
    found.append(compare(rows["full"], rows["do-nothing"], "full", "do-nothing"))
    for control in CONTROLS:
        own = [r for r in controls if r.control == control]
        found.append(compare(rows["full"], own, "full", f"full [{control}]"))
    return adjusted(found)


def write_training(folder: Path, arm: str) -> None:
    trainable = 0 if arm == "frozen" else 409_600
    parameters = [
        ParameterCount(group="vision", total=409_600, trainable=trainable, new=0),
        ParameterCount(group="connector", total=65_536, trainable=65_536, new=0),
        ParameterCount(group="language", total=2_097_152, trainable=2_097_152, new=0),
        ParameterCount(group="embedding", total=262_144, trainable=262_144, new=0),
        ParameterCount(group="query", total=256, trainable=256, new=256),
        ParameterCount(group="head", total=180_231, trainable=180_231, new=180_231),
    ]
    write_one(folder / "run.json", run_record(f"train-{arm}", "train", parameters=parameters, dirty=arm == "frozen"))
    generator = np.random.default_rng(len(arm))
    lines = []
    for step in range(20, 2001, 20):
        arm_loss = (0.3 if arm == "full" else 0.36) * np.exp(-step / 500) + 0.02 + 0.01 * generator.random()
        grip = 0.6 * np.exp(-step / 700) + 0.05 * generator.random()
        line = {
            "step": step, "samples": 32 * step, "loss": arm_loss + 0.01 * grip, "arm_loss": arm_loss,
            "gripper_loss": grip, "grad_norm": 2 * np.exp(-step / 900) + generator.random() * 0.4, "lr": 2e-5,
            "samples_per_s": 210.0, "data_wait": 0.01, "wall_s": step * 0.45,
        }  # fmt: skip
        lines.append(json.dumps(line))
    write_atomic(folder / "metrics.jsonl", "\n".join(lines) + "\n")


def audit_row(
    setting: str, kind: str, a: object, b: object, allowed: bool = False, reason: str | None = None
) -> dict[str, object]:
    return {
        "setting": setting, "class": kind, "values": {"full": a, "frozen": b}, "differs": a != b,
        "allowed": allowed, "reason": reason,
    }  # fmt: skip


FACTOR = "the vision encoder is trained, or stays at its random start"
PROMPT = "What action should the robotic arm take to {instruction}"
AUDIT = {
    "factor": FACTOR,
    "ok": False,
    "faults": ["optimizer.lr"],
    "rows": [
        audit_row("freeze", "must-equal", [], ["vision"], True, FACTOR),
        audit_row("optimizer.lr", "must-equal", 2e-5, 5e-5),
        audit_row("recorded.tokens_per_sample", "may-differ", 287, 263, True, "native to the model"),
        audit_row("batch", "must-equal", 32, 32),
        audit_row("steps", "must-equal", 2000, 2000),
        audit_row("precision", "must-equal", "bf16", "bf16"),
        audit_row("policy.backbone.prompt", "must-equal", PROMPT, PROMPT),
        audit_row("recorded.image_pixels", "must-equal", [224, 224], [224, 224]),
        audit_row("recorded.samples_seen", "must-equal", 64000, 64000),
        audit_row("pretraining data of full", "declared", "none: random weights", None, True) | {"differs": False},
    ],
}  # fmt: skip
