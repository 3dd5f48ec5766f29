"""The paper's head: one deterministic regression of the whole chunk (reference code ``FCDecoder``).

Trunk d -> d/2 -> 1024, then two branches 1024 -> 1024 -> 512 -> 256 -> out with ReLU between: the arm branch ends in
tanh, the gripper branch in logits. All linear layers Xavier-uniform, biases zero. Loss: Huber on the arm plus 0.01
binary cross-entropy on the gripper (1 = open), each the mean over valid steps and dimensions.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from vlm4vla.head_settings import HeadConfig
from vlm4vla.heads.base import ActionHead, HeadLoss
from vlm4vla.types import ActionSpec


def _mlp(*widths: int, final: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        linear = nn.Linear(a, b)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU() if i < len(widths) - 2 else final]
    return nn.Sequential(*layers)


class Head(ActionHead):
    """See the module docstring. With Q > 1 queries their readouts are concatenated before the trunk."""

    def __init__(self, config: HeadConfig, width: int, queries: int, chunk: int, spec: ActionSpec) -> None:
        super().__init__(width, queries, chunk, spec)
        self.config = config
        d = width * queries
        self.trunk = _mlp(d, d // 2, 1024, final=nn.Identity())
        self.arm_branch = _mlp(1024, 1024, 512, 256, chunk * len(self.arm), final=nn.Tanh())
        if self.gripper:
            self.gripper_branch = _mlp(1024, 1024, 512, 256, chunk * len(self.gripper), final=nn.Identity())

    def forward(self, readout_BQD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Arm (B, H, A_arm) in (-1, 1) and gripper logits (B, H, A_gripper), or None without a gripper."""
        batch = readout_BQD.shape[0]
        features = self.trunk(readout_BQD.flatten(1))
        arm = self.arm_branch(features).view(batch, self.chunk, len(self.arm))
        if not self.gripper:
            return arm, None
        return arm, self.gripper_branch(features).view(batch, self.chunk, len(self.gripper))

    def loss(
        self,
        readout_BQD: Float[Tensor, "B Q D"],
        actions_BHA: Float[Tensor, "B H A"],
        mask_BH: Bool[Tensor, "B H"],
        seeds_B: Int64[Tensor, " B"],  # noqa: ARG002 (nothing is drawn)
    ) -> HeadLoss:
        arm, gripper = self(readout_BQD)
        arm_loss = F.huber_loss(
            arm.float(), actions_BHA[..., self.arm], reduction="none", delta=self.config.huber_delta
        )
        total = arm_mean = arm_loss[mask_BH].mean()
        parts = {"arm_loss": arm_mean.detach()}
        if gripper is not None:
            opened = (actions_BHA[..., self.gripper] > 0).float()
            bce = F.binary_cross_entropy_with_logits(gripper.float(), opened, reduction="none")[mask_BH].mean()
            total = arm_mean + self.config.gripper_weight * bce
            parts["gripper_loss"] = bce.detach()
        return HeadLoss(total, parts)

    @torch.no_grad()
    def sample(
        self,
        readout_BQD: Float[Tensor, "B Q D"],
        seeds: Sequence[int],  # noqa: ARG002 (nothing is drawn)
    ) -> Float[Tensor, "B H A"]:
        arm, gripper = self(readout_BQD)
        out = torch.empty((*arm.shape[:2], self.size), dtype=torch.float32, device=arm.device)
        out[..., self.arm] = arm.float()
        if gripper is not None:
            out[..., self.gripper] = torch.where(gripper > 0, 1.0, -1.0)  # sigmoid > 0.5: open
        return out
