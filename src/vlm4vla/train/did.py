"""What the training loop did, noted where it is done: the audit holds it against what the settings say."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

_SAME = 1e-9  # rates nearer than this are one rate
_ROUNDING = 1e-2  # a norm that was cut to a limit is at most this part above it


@dataclass
class Did:
    """Counts over all attempts of a run, but for steps that were lost with a kill; a checkpoint holds them.

    ``start``: the step that the last attempt went on from. ``samples``: of the global batches that came out of the
    loader. ``rates``: the highest of each group of the optimizer; ``highest_at``: the first step (from 1) at which the
    first group had its own, ``last_rate`` what it had last. ``seen``: name -> every value that a step had: ``batch``,
    ``precision``, ``clip_norm``, ``weight_decay``; and ``commit`` of each attempt.
    """

    start: int = 0
    steps: int = 0
    samples: int = 0
    rates: list[float] = field(default_factory=list)
    highest_at: int = 0
    last_rate: float = 0.0
    seen: dict[str, list[Any]] = field(default_factory=dict)

    def note(self, name: str, value: Any) -> None:
        """One more value under ``seen``."""
        values = self.seen.setdefault(name, [])
        if value not in values:
            values.append(value)

    def of_all(self, name: str) -> Any:
        """The value that all steps had; a list of them where they differed, null where no step had any."""
        values = self.seen.get(name, [])
        return values[0] if len(values) == 1 else values or None

    def stepped(self, optimizer: Optimizer, samples: int) -> None:
        """One optimizer step with these rates and decays, on this many samples over all processes."""
        groups = optimizer.param_groups
        rates = [float(group["lr"]) for group in groups]
        self.steps += 1
        self.samples += samples
        self.note("batch", samples)
        self.note("weight_decay", sorted({float(group["weight_decay"]) for group in groups}))
        if not self.rates or rates[0] > self.rates[0] * (1 + _SAME):
            self.highest_at = self.steps
        self.rates = [max(pair) for pair in zip(rates, self.rates or rates, strict=True)]
        self.last_rate = rates[0]

    @property
    def falling(self) -> bool:
        """Whether the rate ended below its highest."""
        return bool(self.rates) and self.last_rate < self.rates[0] * (1 - _SAME)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def autocast_precision(device: str) -> str:
    """``bf16`` or ``fp32``, or another type's name: in which a module computes that is called here and now."""
    if not torch.is_autocast_enabled(device):
        return "fp32"
    dtype = torch.get_autocast_dtype(device)
    return "bf16" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch.")


def clip_limit(parameters: list[nn.Parameter], limit: float) -> float | None:
    """The limit that the gradients, as the optimizer will meet them, keep; null if they were given none, or keep none.

    Reads every gradient once more, which is why it is not asked at each step.
    """
    if limit == float("inf"):
        return None
    left = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return limit if float(left) <= limit * (1 + _ROUNDING) else None
