"""What ``train`` takes: prepared examples, ``collate`` and a loss. A policy is one such objective."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from vlm4vla.data.order import Order

Batch = Mapping[str, Tensor]


class Items(Protocol):
    """Random access to prepared examples; the pair is (sample index, epoch), which fixes the augmentation.

    ``order`` is the endless stream of these pairs; it depends on the run's seed and on nothing else.
    """

    def __len__(self) -> int: ...
    def order(self) -> Order: ...
    def __getitem__(self, key: tuple[int, int]) -> Any: ...


@dataclass(frozen=True)
class Objective:
    """``module(batch) -> (loss, parts)``; ``weight(batch)`` is the count that the loss is a mean of."""

    module: nn.Module
    items: Items
    collate: Callable[[Sequence[Any]], dict[str, Tensor]]
    weight: Callable[[Batch], float]
