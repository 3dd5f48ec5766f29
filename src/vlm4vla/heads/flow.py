"""Flow matching: a small transformer turns noise into the chunk, step by step, under the readout's direction.

Conditional flow matching on straight paths (Lipman et al. 2023) as policies use it (pi0, arXiv 2410.24164, section IV;
reference code ``FMDecoder``): between noise at time 0 and the normalised chunk at time 1, the network predicts the
velocity ``actions - noise`` at ``(1 - time) noise + time actions``. Times are drawn as (end - time) / end ~
Beta(1.5, 1), most of them near the noise; loss: the mean squared error over valid steps and all dimensions. Grippers
are dimensions like the others, -1 or +1 in training, and are cut at 0 when sampled, by Euler steps of equal length.

The network (DiT, Peebles and Xie 2023): a token per chunk step, full attention among them, every block scaled and
shifted by time and readout. Unlike DiT's, no layer starts at zero, or the query would learn nothing in the first step.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from vlm4vla.head_settings import FlowHeadConfig
from vlm4vla.heads.base import ActionHead, HeadLoss
from vlm4vla.types import ActionSpec

_SHORTEST, _LONGEST = 4e-3, 4.0  # periods of the waves that tell the time, which runs from 0 to 1 (pi0's)


class Head(ActionHead):
    """See the module docstring. With Q > 1 queries their readouts are concatenated."""

    noisy = True

    def __init__(self, config: FlowHeadConfig, width: int, queries: int, chunk: int, spec: ActionSpec) -> None:
        super().__init__(width, queries, chunk, spec)
        self.config = config
        inside = config.width
        self.actions_in = nn.Linear(self.size, inside)
        self.positions_HW = nn.Parameter(torch.randn(chunk, inside) * 0.02)
        self.readout_norm = nn.LayerNorm(width * queries)  # how large readouts are is the VLM's affair
        self.readout_in = nn.Linear(width * queries, inside)
        self.time_in = nn.Sequential(nn.Linear(inside, inside), nn.SiLU(), nn.Linear(inside, inside))
        self.blocks = nn.ModuleList(_Block(inside, config.attention_heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(inside, elementwise_affine=False)
        self.modulation = nn.Linear(inside, 2 * inside)
        self.actions_out = nn.Linear(inside, self.size)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, noised_BHA: Tensor, time_B: Tensor, readout_BW: Tensor, mask_BHH: Tensor | None) -> Tensor:
        """Velocity (B, H, A) float32. ``readout_BW`` is :meth:`condition`'s; ``mask_BHH``: which step sees which."""
        told_BW = readout_BW + self.time_in(_waves(time_B, self.config.width))
        x_BHW = self.actions_in(noised_BHA) + self.positions_HW
        for block in self.blocks:
            x_BHW = block(x_BHW, told_BW, mask_BHH)
        shift, scale = self.modulation(F.silu(told_BW))[:, None].chunk(2, dim=-1)
        velocity_BHA: Tensor = self.actions_out(self.norm(x_BHW) * (1 + scale) + shift)
        return velocity_BHA.float()

    def condition(self, readout_BQD: Float[Tensor, "B Q D"]) -> Float[Tensor, "B W"]:
        readout_BW: Tensor = self.readout_in(self.readout_norm(readout_BQD.flatten(1)))
        return readout_BW

    def loss(
        self,
        readout_BQD: Float[Tensor, "B Q D"],
        actions_BHA: Float[Tensor, "B H A"],
        mask_BH: Bool[Tensor, "B H"],
        seeds_B: Int64[Tensor, " B"],
    ) -> HeadLoss:
        goal_BHA = actions_BHA.clone()
        goal_BHA[..., self.gripper] = torch.where(actions_BHA[..., self.gripper] > 0, 1.0, -1.0)
        noise_BHA, time_B = self._draw(seeds_B.tolist(), with_time=True, device=actions_BHA.device)
        at = time_B[:, None, None]
        # Steps after the end of the episode are seen by themselves alone, so that no valid one depends on them.
        seen_BHH = mask_BH[:, None, :] | torch.eye(self.chunk, dtype=torch.bool, device=mask_BH.device)
        velocity = self((1 - at) * noise_BHA + at * goal_BHA, time_B, self.condition(readout_BQD), seen_BHH)
        error = ((velocity - (goal_BHA - noise_BHA)) ** 2)[mask_BH]
        parts = {"arm_loss": error[:, self.arm].mean().detach()}
        if self.gripper:
            parts["gripper_loss"] = error[:, self.gripper].mean().detach()
        return HeadLoss(error.mean(), parts)

    @torch.no_grad()
    def sample(self, readout_BQD: Float[Tensor, "B Q D"], seeds: Sequence[int]) -> Float[Tensor, "B H A"]:
        chunk_BHA, _ = self._draw(seeds, with_time=False, device=readout_BQD.device)
        readout_BW, steps = self.condition(readout_BQD), self.config.euler_steps
        for step in range(steps):
            time_B = torch.full((len(seeds),), step / steps, device=readout_BQD.device)
            chunk_BHA = chunk_BHA + self(chunk_BHA, time_B, readout_BW, None) / steps
        out = chunk_BHA.clamp(-1.0, 1.0)
        out[..., self.gripper] = torch.where(chunk_BHA[..., self.gripper] > 0, 1.0, -1.0)
        return out

    def _draw(self, seeds: Sequence[int], with_time: bool, device: torch.device) -> tuple[Tensor, Tensor]:
        """Noise (B, H, A) and times (B,), without ``with_time`` zeros, each row from a generator of its own."""
        noise = np.empty((len(seeds), self.chunk, self.size), np.float32)
        time = np.zeros(len(seeds), np.float32)
        for row, seed in enumerate(seeds):
            generator = np.random.default_rng(seed)
            noise[row] = generator.standard_normal((self.chunk, self.size))
            if with_time:
                time[row] = self.config.time_end * (1 - generator.beta(*self.config.time_beta))
        return torch.from_numpy(noise).to(device), torch.from_numpy(time).to(device)


class _Block(nn.Module):
    """Attention among the steps and a perceptron for each, both scaled, shifted and weighed by what is told."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mix_in, self.mix_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.second_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x_BHW: Tensor, told_BW: Tensor, mask_BHH: Tensor | None) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(F.silu(told_BW))[:, None].chunk(6, dim=-1)
        x_BHW = x_BHW + gate_1 * self._mix(self.first_norm(x_BHW) * (1 + scale_1) + shift_1, mask_BHH)
        out_BHW: Tensor = x_BHW + gate_2 * self.perceptron(self.second_norm(x_BHW) * (1 + scale_2) + shift_2)
        return out_BHW

    def _mix(self, x_BHW: Tensor, mask_BHH: Tensor | None) -> Tensor:
        of_all: Tensor = self.mix_in(x_BHW)
        asked, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in of_all.chunk(3, dim=-1))
        mask = None if mask_BHH is None else mask_BHH[:, None]
        mixed = F.scaled_dot_product_attention(asked, keys, values, attn_mask=mask)
        mixed_BHW: Tensor = self.mix_out(mixed.transpose(1, 2).flatten(2))
        return mixed_BHW


def _waves(time_B: Tensor, width: int) -> Tensor:
    """Times as (B, width) sines and cosines, their periods in a geometric row."""
    places = torch.linspace(0, 1, width // 2, device=time_B.device)
    angles = 2 * math.pi * time_B[:, None] / (_SHORTEST * (_LONGEST / _SHORTEST) ** places)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
