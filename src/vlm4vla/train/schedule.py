"""Learning rate as a pure function of the step, so that nothing about it has to be stored or restored."""

import math

from torch import nn
from torch.optim import AdamW

from vlm4vla.schemas import OptimizerConfig


def rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of optimizer step ``step`` (counted from 0) of ``steps``: linear warm-up, then constant or cosine to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def build(config: OptimizerConfig, module: nn.Module) -> AdamW:
    """Fused AdamW over the trainable parameters, one group, decay as configured (the paper: none)."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return AdamW(
        parameters, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )
