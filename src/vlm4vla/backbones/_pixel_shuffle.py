"""What the pixel-shuffle families share: one whole view of each picture, its patches folded into fewer image tokens.

A picture is shown once and is never split into tiles. ``<fake_token_around_image>`` stands before and after it,
``<global-img>`` says that this is the whole view. The turn is a script: ``User:``, pictures, sentence,
``<end_of_utterance>``, a newline, ``Assistant:``.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla.backbones.base import BackboneFamily
from vlm4vla.backbones.processor import Inputs, Piece, PlaneProcessor, Side
from vlm4vla.schemas import BackboneConfig, Group

IMAGE, FRAME, VIEW, END = "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"


class ShuffleProcessor(PlaneProcessor):
    """``pixel_values`` (cameras, 3, S, S) of a sample, (B, cameras, 3, S, S) of a batch; all samples have all cameras.

    The library's mask of pixels is left out: it means that every picture fills its plane.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    image_token = IMAGE
    answer_opening = " "
    opening: ClassVar[str]
    """The special token at the beginning of every prompt."""
    view: ClassVar[Piece]
    """``<global-img>``: a special token or text, as the family's tokenizer has it."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> None:
        super().__init__(tokenizer, config, model_config, queries)
        patch, factor = int(model_config.vision_config.patch_size), int(model_config.scale_factor)
        self.unit = patch * factor
        # Above its own size the encoder would give neighbouring patches the same position.
        largest = int(model_config.vision_config.image_size) // self.unit * self.unit
        nearest = round(config.image_size / self.unit) * self.unit
        self.require_size(
            config.image_size % self.unit == 0 and config.image_size <= largest,
            f"multiples of {self.unit} (patch {patch} x shuffle {factor}) up to {largest}",
            min(max(self.unit, nearest), largest),
        )

    def image_tokens(self) -> int:
        return (self.config.image_size // self.unit) ** 2

    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:
        images = [
            piece for n in image_tokens for piece in (Piece(FRAME, True), self.view, Piece(IMAGE * n + FRAME, True))
        ]
        turn = [Piece("User:"), *images, Piece(sentence), Piece(END, True)]
        return [Piece(self.opening, True), *turn, Piece("\nAssistant:")]

    def stack(self, samples: Sequence[Inputs], length: int, side: Side) -> dict[str, Tensor]:
        batch = self.pad(samples, length, side)
        batch["pixel_values"] = torch.from_numpy(np.stack([s["pixel_values"] for s in samples]))
        return batch


class ShuffleFamily(BackboneFamily):
    """A vision transformer with its final norm, pixel shuffle with one linear layer, a Llama."""

    def native_size(self, model_config: PretrainedConfig) -> int:
        unit = int(model_config.vision_config.patch_size) * int(model_config.scale_factor)
        return super().native_size(model_config) // unit * unit

    eos_token = END
    parameter_groups: ClassVar[tuple[tuple[str, Group], ...]] = (
        ("vision_model.", "vision"),
        ("connector.", "connector"),
        ("text_model.embed_tokens.", "embedding"),
        ("text_model.", "language"),
    )
    block_lists = ("vision_model.encoder.layers", "text_model.layers")
