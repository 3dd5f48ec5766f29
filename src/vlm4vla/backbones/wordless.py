"""A small convolutional network without language: no VLM, but a probe of a benchmark.

What a policy of it reaches needs neither words nor a big model: a benchmark on which VLMs are no better does not tell
them apart. It is trained and served like all others, from random weights, and never sees the instruction: its prompt
is the pictures alone. Our own model (``_small_network.py``), below two million parameters.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla.backbones._small_network import SmallConfig
from vlm4vla.backbones.base import BackboneFamily
from vlm4vla.backbones.processor import Inputs, Piece, PlaneProcessor, Side
from vlm4vla.schemas import BackboneConfig, Group

IMAGE, PAD, EOS = "<image>", "<pad>", "</s>"


class WordlessProcessor(PlaneProcessor):
    """``pixel_values`` (pictures, 3, S, S) of a sample, (B, pictures, 3, S, S) of a batch; all samples have as many."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    image_token = IMAGE

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> None:
        super().__init__(tokenizer, config, model_config, queries)
        self.stride: int = 2 ** len(model_config.channels)
        unit = self.stride * int(model_config.grid)
        nearest = max(1, round(config.image_size / unit)) * unit
        self.require_size(config.image_size % unit == 0, f"multiples of {unit}", nearest)

    def image_tokens(self) -> int:
        return (self.config.image_size // self.stride) ** 2

    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:  # noqa: ARG002 - it goes unheard
        return [Piece(IMAGE * n, True) for n in image_tokens]

    def stack(self, samples: Sequence[Inputs], length: int, side: Side) -> dict[str, Tensor]:
        batch = self.pad(samples, length, side)
        batch["pixel_values"] = torch.from_numpy(np.stack([s["pixel_values"] for s in samples]))
        return batch


class Family(BackboneFamily):
    name = "wordless"
    model_types = (SmallConfig.model_type,)
    processor = WordlessProcessor
    special_tokens = (PAD, EOS, IMAGE)
    pad_token, eos_token = PAD, EOS
    token_ids: ClassVar[Mapping[str, str]] = {"image_token_id": IMAGE}
    # "language" is what stands in the place of a language model.
    parameter_groups: ClassVar[tuple[tuple[str, Group], ...]] = (
        ("vision.", "vision"),
        ("projector.", "connector"),
        ("embed_tokens.", "embedding"),
        ("layers.", "language"),
        ("norm.", "language"),
    )
    block_lists = ("vision.stages", "layers")
    hears = False

    def native_size(self, model_config: PretrainedConfig) -> int:
        return int(model_config.image_size)
