"""What every head offers: a readout becomes a loss, or a chunk of actions in normalised units."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vlm4vla.types import ActionSpec


@dataclass(frozen=True)
class HeadLoss:
    """A scalar to minimise and its parts (detached scalars) for the log."""

    loss: Tensor
    parts: dict[str, Tensor]


class ActionHead(nn.Module, ABC):
    """Readout (B, Q, D) -> action chunk (B, H, A): arm dimensions normalised to [-1, 1], gripper -1 or +1 (open).

    A head that draws random numbers says so in ``noisy``, and draws those of a row from the row's seed and nothing
    else, so that they depend neither on its batch mates nor on the device, the process or what was drawn before.
    """

    noisy: ClassVar[bool] = False

    def __init__(self, width: int, queries: int, chunk: int, spec: ActionSpec) -> None:
        super().__init__()
        self.width, self.queries, self.chunk = width, queries, chunk
        self.arm, self.gripper = list(spec.arm), list(spec.gripper)
        self.size = spec.size

    @abstractmethod
    def loss(
        self,
        readout_BQD: Float[Tensor, "B Q D"],
        actions_BHA: Float[Tensor, "B H A"],
        mask_BH: Bool[Tensor, "B H"],
        seeds_B: Int64[Tensor, " B"],
    ) -> HeadLoss:
        """Mean over the valid chunk steps; masked steps do not matter. At least one step must be valid."""

    @abstractmethod
    def sample(self, readout_BQD: Float[Tensor, "B Q D"], seeds: Sequence[int]) -> Float[Tensor, "B H A"]: ...
