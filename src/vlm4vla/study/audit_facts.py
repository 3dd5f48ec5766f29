"""What runs record and the audit compares: each fact with the settings it follows from, and what those let expect.

Written by ``train/facts.py`` and ``rollout/runner.py``. ``NATIVE`` facts of a VLM are listed in ``audit_settings.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vlm4vla.schemas import EvalConfig, TrainConfig

C = TypeVar("C", TrainConfig, EvalConfig)
_LIMIT = 1.0
"""A bounded normaliser without a clip of its own cuts here (``data/normalize.py``)."""


@dataclass(frozen=True)
class Fact(Generic[C]):
    """``follows``: settings of a study that this is a consequence of. ``expected``: what a run with these settings
    records; None where the settings alone do not say."""

    follows: tuple[str, ...] = ()
    expected: Callable[[C], Any] | None = None


_SIZES = ("policy.backbone.image_size", "policy.backbone.view_size")
_BUDGET = ("steps", "batch")
_VLM = ("policy.backbone.family", "policy.backbone.checkpoint", "policy.backbone.revision", "policy.backbone.init")


def _highest_rate(c: TrainConfig) -> float | list[float]:
    """Of a warm-up that is cut short by the end of the run, its last rate; of the VLM too, where it has its own."""
    highest = c.optimizer.lr * min(1.0, c.steps / max(1, c.optimizer.warmup_steps))
    scale = c.optimizer.vlm_lr_scale or 1.0
    rates = [float(f"{highest * factor:.10g}") for factor in (1.0, scale)]
    return rates if scale != 1.0 else rates[0]


def _shape_of_rates(c: TrainConfig) -> str:
    """A rate cannot be seen to fall in a run that ends with its warm-up."""
    return c.optimizer.schedule if c.steps > c.optimizer.warmup_steps + 1 else "constant"


def _normalizer(c: TrainConfig) -> dict[str, Any]:
    own = c.policy.normalizer
    return {"kind": own.kind, "clip": own.clip if own.clip is not None or own.kind == "mean_std" else _LIMIT}


TRAINED: Mapping[str, Fact[TrainConfig]] = {
    "learning_rate": Fact(("optimizer.lr", "optimizer.vlm_lr_scale", "optimizer.warmup_steps", "steps"), _highest_rate),
    "warmup_steps": Fact(("optimizer.warmup_steps", "steps"), lambda c: max(1, min(c.optimizer.warmup_steps, c.steps))),
    "schedule": Fact(("optimizer.schedule", "optimizer.warmup_steps", "steps"), _shape_of_rates),
    "clip_norm": Fact(("optimizer.clip_norm",), lambda c: c.optimizer.clip_norm or None),
    "weight_decay": Fact(("optimizer.weight_decay",), lambda c: [c.optimizer.weight_decay]),
    "precision": Fact(("precision",), lambda c: c.precision),
    "weights_dtype": Fact(("policy.backbone.dtype",), lambda c: [c.policy.backbone.dtype]),
    "normalizer": Fact(("policy.normalizer",), _normalizer),
    "augmentation": Fact(("augment",), lambda c: c.data.augment.model_dump(mode="json")),
    "center_crop": Fact(("augment.crop",), lambda c: c.data.augment.crop),
    "chunk": Fact(("policy.chunk",), lambda c: c.policy.chunk),
    "batch": Fact(("batch",), lambda c: c.batch),
    "samples_seen": Fact(_BUDGET, lambda c: c.steps * c.batch),
    "epochs": Fact(_BUDGET),
    "order": Fact(_BUDGET),
    "shares": Fact(_SIZES),
    "checkpoint_step": Fact(("steps",), lambda c: c.steps),
    "frozen_groups": Fact(("freeze",)),
    "model_pixels": Fact(_SIZES[:1], lambda c: c.policy.backbone.image_size),
    "image_pixels": Fact(
        (*_SIZES, "policy.cameras", "policy.window"),
        lambda c: [[c.policy.backbone.view] * 2] * (len(c.policy.cameras) * c.policy.window),
    ),
    "sentence": Fact(("policy.backbone.prompt",), lambda c: c.policy.backbone.prompt),
    "head": Fact(("policy.head.name",), lambda c: c.policy.head.name),
    "pictures_per_camera": Fact(("policy.window",), lambda c: c.policy.window),
    "proprioception": Fact(("policy.proprioception",), lambda c: c.policy.proprioception),
    "checkpoint_commit": Fact(("policy.backbone.checkpoint", "policy.backbone.revision")),
}
"""Facts of a training run that must be equal."""

EVALUATED: Mapping[str, Fact[EvalConfig]] = {
    "benchmark": Fact(),
    "split": Fact((), lambda c: c.split),
    "starts": Fact(),
    "starts_count": Fact((), lambda c: c.episodes * len(c.tasks) if c.tasks else None),
    "tasks": Fact((), lambda c: list(c.tasks) if c.tasks else None),
    "step_limit": Fact(),
    "success_rule": Fact(),
    "execute": Fact(("eval.execute",), lambda c: c.execute),
    "precision": Fact((), lambda c: c.precision),
    "batch": Fact((), lambda c: c.batch),
    "center_crop": Fact(("augment.crop",)),
    "normalizer": Fact(("policy.normalizer",)),
    "chunk": Fact(("policy.chunk",)),
    "checkpoint_step": Fact(("steps",)),
    "candidates": Fact(),
    "evaluation": Fact((), lambda c: c.evaluation),
}
"""Facts of an evaluation that must be equal."""

CHOSEN = ("execute", "checkpoint_step")
"""Facts of an evaluation that a declared rule of selection decides for every policy by itself."""
TWINS = ("center_crop", "normalizer", "chunk")
"""Facts of an evaluation that must be those of the policy's training."""

OF_VLM = (*_VLM, *_SIZES, "policy.backbone.attention", "policy.backbone.prompt", "policy.cameras", "policy.window")
_ADDED = ("policy.head", "policy.chunk", "policy.queries", "policy.proprioception")
NATIVE_FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "parameters": (*OF_VLM, *_ADDED),
    "trainable": (*OF_VLM, *_ADDED, "freeze"),
    "flops_per_sample": (*OF_VLM, *_ADDED),
}
"""Settings that a native fact follows from, where it is more than ``OF_VLM``."""
