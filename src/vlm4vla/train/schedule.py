"""Learning rate as a pure function of the step, so that nothing about it has to be stored or restored."""

import math

from torch import nn
from torch.optim import AdamW, Optimizer

from vlm4vla.schemas import OptimizerConfig


def rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of optimizer step ``step`` (counted from 0) of ``steps``: linear warm-up, then constant or cosine to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def set_rates(optimizer: Optimizer, config: OptimizerConfig, step: int, steps: int) -> float:
    """Give the groups of :func:`build` their rates of this step; returns that of the new parameters."""
    lr = rate(config, step, steps)
    for group, scale in zip(optimizer.param_groups, (1.0, config.vlm_lr_scale or 1.0), strict=False):
        group["lr"] = lr * scale
    return lr


def build(config: OptimizerConfig, module: nn.Module) -> AdamW:
    """Fused AdamW over the trainable parameters, decay as configured (the paper: none).

    One group; where the VLM (a policy's ``backbone``) learns at another rate, it is a second one.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    groups = [[p for _, p in named]]
    if config.vlm_lr_scale not in (None, 1.0):
        groups = [[p for name, p in named if name.startswith("backbone.") == of_vlm] for of_vlm in (False, True)]
    return AdamW(
        [{"params": group} for group in groups],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
