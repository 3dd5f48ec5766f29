"""LLaVA-OneVision on Qwen2: 0.5B and 7B.

Prompt: one user turn of the published ``chat_template.json``; the golden file says what is doubtful about it.

The library shows ONE picture as a base view and tiles (a square one at the encoder's size has one tile, with the same
pixels), SEVERAL as a base view each. With n x n patches to a view that is n^2 + n(n + 1) image tokens for one picture,
n^2 + 1 for each of several: a tile has a newline vector after each row, a base view on its own has one at its end.
``image_sizes`` and ``batch_num_images`` tell the model which of the two it is.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla.backbones.base import BackboneFamily
from vlm4vla.backbones.processor import Inputs, Piece, Processor, Side
from vlm4vla.schemas import BackboneConfig, Group
from vlm4vla.types import Image

IMAGE, VIDEO, START, END, PAD = "<image>", "<video>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"


class OnevisionProcessor(Processor):
    """``pixel_values`` (pictures, views, 3, S, S), ``image_sizes`` (pictures, 2), ``batch_num_images`` (1,)."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    image_token = IMAGE

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> None:
        super().__init__(tokenizer, config, model_config, queries)
        size, patch = int(model_config.vision_config.image_size), int(model_config.vision_config.patch_size)
        self.rows = size // patch
        self.require_size(config.image_size == size, f"{size}, the vision encoder's own size", size)

    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:
        images = [Piece(IMAGE * n, True) for n in image_tokens]
        turn = [Piece(START, True), Piece("user "), *images, Piece("\n" + sentence), Piece(END, True)]
        return [*turn, Piece(START, True), Piece("assistant\n")]

    def pictures(self, images: Sequence[Image]) -> tuple[Inputs, list[int]]:
        alone = len(images) == 1
        planes = np.stack([self.normalise(image.transpose(2, 0, 1)) for image in images])
        inputs = {
            "pixel_values": np.repeat(planes[:, None], 2 if alone else 1, axis=1),
            "image_sizes": np.asarray([image.shape[:2] for image in images], dtype=np.int64),
            "batch_num_images": np.asarray([len(images)], dtype=np.int64),
        }
        return inputs, [self.rows**2 + (self.rows * (self.rows + 1) if alone else 1)] * len(images)

    def stack(self, samples: Sequence[Inputs], length: int, side: Side) -> dict[str, Tensor]:
        batch = self.pad(samples, length, side)
        for key in ("pixel_values", "image_sizes", "batch_num_images"):
            batch[key] = torch.from_numpy(np.concatenate([s[key] for s in samples]))
        return batch

    def seen(self, inputs: Inputs) -> list[Image]:
        return [self.denormalise(views[0].transpose(1, 2, 0)) for views in inputs["pixel_values"]]


class Family(BackboneFamily):
    name = "llava_onevision"
    model_types = ("llava_onevision",)
    processor = OnevisionProcessor
    special_tokens = (PAD, START, END, IMAGE, VIDEO)
    pad_token, eos_token = PAD, END
    token_ids: ClassVar[Mapping[str, str]] = {
        "image_token_index": IMAGE,
        "video_token_index": VIDEO,
        "text_config.bos_token_id": PAD,
        "text_config.eos_token_id": END,
    }
    parameter_groups: ClassVar[tuple[tuple[str, Group], ...]] = (
        ("vision_tower.", "vision"),
        ("multi_modal_projector.", "connector"),
        ("image_newline", "connector"),
        ("language_model.embed_tokens.", "embedding"),
        ("language_model.", "language"),
    )
    # The features are those of the last layer before the norm.
    unused = ("vision_tower.post_layernorm.",)
    block_lists = ("vision_tower.encoder.layers", "language_model.layers")
