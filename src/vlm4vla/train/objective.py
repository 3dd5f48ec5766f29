"""What ``train`` takes: prepared examples, ``collate`` and a loss. A policy is one such objective."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

Batch = Mapping[str, Tensor]


class Items(Protocol):
    """Random access to prepared examples; the pair is (sample index, epoch), which fixes the augmentation."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: tuple[int, int]) -> Any: ...


@dataclass(frozen=True)
class Objective:
    """``module(batch) -> (loss, parts)``; ``weight(batch)`` is the count that the loss is a mean of."""

    module: nn.Module
    items: Items
    collate: Callable[[Sequence[Any]], dict[str, Tensor]]
    weight: Callable[[Batch], float]
