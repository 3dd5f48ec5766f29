"""A tiny study of two arms, and the records that its runs would leave when they do what their settings say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm4vla import config as configs
from vlm4vla.records import ParameterCount, RunRecord
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import audit, cells

FILE = Path(__file__).parents[2] / "studies" / "quickstart.yaml"
SAME = ("--arms", "{a: {label: a}, b: {label: b}}", "--may_differ", "[]", "--train.freeze", "[vision]")


def study(*words: str) -> StudyConfig:
    """Two arms, ``a`` and ``b``, that differ in nothing; both freeze vision."""
    return configs.load(StudyConfig, FILE, (*SAME, *words))


def overridden(overrides: str) -> StudyConfig:
    """The same with overrides of arm ``b``."""
    return study("--arms", f"{{a: {{label: a}}, b: {{label: b, overrides: {overrides}}}}}")


TRAINED: dict[str, Any] = {
    "learning_rate": 5e-4, "warmup_steps": 50, "schedule": "cosine", "clip_norm": 1.0, "weight_decay": [0.01],
    "precision": "bf16", "weights_dtype": ["float32"], "normalizer": {"kind": "limits", "clip": 1.0},
    "augmentation": {"shift": 2, "crop": None, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    "center_crop": None, "chunk": 8, "batch": 64, "samples_seen": 38400, "epochs": 3.0, "order": "0a", "shares": {},
    "checkpoint_step": 600, "frozen_groups": ["vision"], "model_pixels": 96, "image_pixels": [[96, 96]],
    "sentence": "What action should the robotic arm take to {instruction}", "head": "regression",
    "pictures_per_camera": 1, "proprioception": False, "checkpoint_commit": None, "kept": {},
    "tokenizer": "T, 900 tokens", "prompt": "a prompt", "image_tokens": 9, "tokens_per_sample": 31,
    "encoder_resolution": 224, "query_position": 30, "query_at": [24, 24, 24], "attention_mask": "causal",
    "attention_kernel": "eager", "dropout": {}, "flops_per_sample": 10, "commits": ["c"],
}  # fmt: skip
EVALUATED: dict[str, Any] = {
    "benchmark": "metaworld-v1", "split": "eval", "starts": "f0", "starts_count": 120, "step_limit": 200,
    "success_rule": "rule", "execute": 4, "precision": "fp32", "batch": 4, "center_crop": None, "chunk": 8,
    "normalizer": {"kind": "limits", "clip": 1.0}, "checkpoint_step": 600, "candidates": 1, "evaluation": 1,
    "tokens": 40, "selection": None, "commits": ["c"],
}  # fmt: skip
GROUPS = {"vision": 0, "connector": 7, "language": 9, "embedding": 3, "query and head": 2}


class Runs:
    """The records of a study's runs; ``edit`` one before the audit."""

    def __init__(self, config: StudyConfig) -> None:
        self.study = config
        self.trained: dict[str, RunRecord] = {}
        self.evaluated: dict[str, RunRecord] = {}
        for cell in cells.cells(config, Path("out")):
            weights = f"weights of {cell.name}"
            facts = TRAINED | {"order": f"order of {cell.seed}"}
            train = _record("train", configs.to_dict(cell.train), facts, {"store": "d", "policy": weights})
            counts = [ParameterCount(group=g, total=n or 5, trainable=n, new=0) for g, n in GROUPS.items()]
            self.trained[cell.name] = train.model_copy(update={"parameters": counts, "seed": cell.seed})
            tasks = EVALUATED | {"tasks": list(cell.eval.tasks)}
            played = _record("eval", configs.to_dict(cell.eval), tasks, {"policy": weights})
            self.evaluated[cell.name] = played.model_copy(
                update={"versions": {"mujoco": "3.3.2", "renderer": "osmesa"}}
            )

    def edit(self, kind: str, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """``change`` the plain data of one record of ``trained`` or ``evaluated``."""
        runs: dict[str, RunRecord] = getattr(self, kind)
        plain = runs[name].model_dump()
        change(plain)
        runs[name] = RunRecord.model_validate(plain)

    def audit(self) -> dict[str, Any]:
        return audit.audit(self.study, self.trained, self.evaluated)

    def faults(self) -> list[str]:
        return list(self.audit()["faults"])


def _record(kind: str, config: dict[str, Any], facts: dict[str, Any], inputs: dict[str, str]) -> RunRecord:
    return RunRecord.model_validate(
        {
            "run": kind, "kind": kind, "config": config, "config_hash": "x", "commit": "c", "dirty": False,
            "packages": {"torch": "2", "transformers": "5", "numpy": "2", "vlm4vla": "0"},
            "hardware": {"cpu": "a", "device": "cpu"} | ({"processes": 1} if kind == "train" else {}),
            "seed": config["seed"], "inputs": inputs, "started": "now", "finished": "now", "facts": facts,
        }
    )  # fmt: skip
