"""Convolutions that see one whole patch at a time, computed as the matrix product that they are.

The library's Qwen-VL encoders embed patches by a ``Conv3d`` whose kernel is as large as its input. torch has no fast
way for it on a CPU, least of all in bfloat16 (``benchmarks/training_step.py``).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class PatchConv3d(nn.Conv3d):
    """A ``Conv3d`` with the same parameters and results; (N, C, kernel) -> (N, D, 1, 1, 1) is one matrix product."""

    def forward(self, patches: Tensor) -> Tensor:
        if tuple(patches.shape[2:]) != self.kernel_size:
            return super().forward(patches)
        embedded = nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)
        return embedded[:, :, None, None, None]


def as_products(model: nn.Module) -> None:
    """Let every plain ``Conv3d`` of ``model`` compute so. Parameters, their names and hooks stay what they are."""
    for module in model.modules():
        if type(module) is nn.Conv3d and module.groups == 1 and not any(_numbers(module.padding)):
            module.__class__ = PatchConv3d


@contextmanager
def as_the_library(model: nn.Module) -> Iterator[None]:
    """Within it, ``model`` convolves again; for comparisons."""
    ours: list[nn.Module] = [module for module in model.modules() if type(module) is PatchConv3d]
    for module in ours:
        module.__class__ = nn.Conv3d
    try:
        yield
    finally:
        for module in ours:
            module.__class__ = PatchConv3d


def _numbers(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    """Padding on each axis; that which torch would work out itself counts as some."""
    return (1,) if isinstance(padding, str) else padding
