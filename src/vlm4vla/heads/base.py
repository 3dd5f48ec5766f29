"""What every head offers: a readout becomes a loss, or a chunk of actions in normalised units."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlm4vla.schemas import HeadConfig
from vlm4vla.types import ActionSpec


@dataclass(frozen=True)
class HeadLoss:
    """A scalar to minimise and its parts (detached scalars) for the log."""

    loss: Tensor
    parts: dict[str, Tensor]


class ActionHead(nn.Module, ABC):
    """Readout (B, Q, D) -> action chunk (B, H, A): arm dimensions normalised to [-1, 1], gripper -1 or +1 (open)."""

    def __init__(self, config: HeadConfig, width: int, queries: int, chunk: int, spec: ActionSpec) -> None:
        super().__init__()
        self.config = config
        self.width, self.queries, self.chunk = width, queries, chunk
        self.arm, self.gripper = list(spec.arm), list(spec.gripper)
        self.size = spec.size

    @abstractmethod
    def loss(
        self,
        readout_BQD: Float[Tensor, "B Q D"],
        actions_BHA: Float[Tensor, "B H A"],
        mask_BH: Bool[Tensor, "B H"],
    ) -> HeadLoss:
        """Mean over the valid chunk steps; masked steps do not matter. At least one step must be valid."""

    @abstractmethod
    def sample(self, readout_BQD: Float[Tensor, "B Q D"]) -> Float[Tensor, "B H A"]: ...
