"""What a recipe costs, measured on this machine with its real shapes before anything is trained.

Runs a few optimizer steps and inferences on random pictures and actions; nothing is read but the VLM itself.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from vlm4vla.data.batch import Sample
from vlm4vla.data.normalize import Normalizer
from vlm4vla.data.statistics import Statistics
from vlm4vla.policy import Facts, Policy
from vlm4vla.schemas import NormalizerConfig, StudyTrain
from vlm4vla.train import schedule
from vlm4vla.types import ActionSpec, Observation, view_names


def measure(recipe: StudyTrain, spec: ActionSpec, state_names: tuple[str, ...], eval_batch: int) -> dict[str, Any]:
    """Seconds per optimizer step and per inference of ``eval_batch`` observations, and the parameter accounting."""
    policy, step = optimizer_step(recipe, spec, state_names)
    sample = _random_sample(recipe, spec, len(state_names))
    observation = Observation(sample.images, sample.instruction, sample.state)
    return {
        "seconds_per_step": _median_seconds(step, 5),
        "seconds_per_inference": _median_seconds(lambda: policy.act([observation] * eval_batch), 5),
        "tokens_per_sample": policy.count_tokens(sample.instruction),
        "parameters": [count.model_dump() for count in policy.parameters_by_group()],
    }


def optimizer_step(
    recipe: StudyTrain, spec: ActionSpec, state_names: tuple[str, ...]
) -> tuple[Policy, Callable[[], None]]:
    """A policy of the recipe, and a call that does one optimizer step of it on the same made-up batch each time."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    made_up = Statistics.of(np.stack([-np.ones(spec.size), np.ones(spec.size)]).astype(np.float32))
    normalizer = Normalizer.fit(spec, made_up, NormalizerConfig(kind="mean_std"))  # any kind costs the same
    zeros = (0.0,) * len(state_names)
    facts = Facts(spec, normalizer, state_names, zeros, (1.0,) * len(state_names), {}, recipe.augment.crop)
    policy = Policy.create(recipe.policy, facts, seed=0)
    policy.freeze(recipe.freeze)
    if recipe.gradient_checkpointing:
        policy.backbone.recompute_activations()
    sample = _random_sample(recipe, spec, len(state_names))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy.to(device)
    examples = [policy.preparer.example(sample)] * recipe.batch
    batch = {key: value.to(device) for key, value in policy.preparer.collate(examples).items()}
    optimizer = schedule.build(recipe.optimizer, policy)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss, _ = policy(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()  # waits for an accelerator

    return policy, step


def _random_sample(recipe: StudyTrain, spec: ActionSpec, states: int) -> Sample:
    rng = np.random.default_rng(0)
    size, chunk = recipe.policy.backbone.view, recipe.policy.chunk
    views = view_names(recipe.policy.cameras, recipe.policy.window)
    images = {name: rng.integers(0, 255, (size, size, 3), dtype=np.uint8) for name in views}
    return Sample(
        images=images,
        instruction="open the drawer",
        state=np.zeros(states, dtype=np.float32) if states else None,
        actions=rng.uniform(-1, 1, (chunk, spec.size)).astype(np.float32),
        mask=np.ones(chunk, dtype=bool),
    )


def _median_seconds(action: Any, repeats: int) -> float:
    action()  # the first call compiles kernels and fills caches
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return float(np.median(times))
