"""Qwen3-VL, dense: 2B, 4B, 8B and the preset ``tiny``. DeepStack and interleaved M-RoPE are the library's own.

Prompt: the family's chat template for one user turn (no system turn by default), as published with
Qwen/Qwen3-VL-4B-Instruct (``chat_template.json``); the golden test holds it. Positions come from ``input_ids`` and
``mm_token_type_ids`` (0 text, 1 image), which the model requires.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig

from vlm4vla.backbones._tiny import tiny_tokenizer
from vlm4vla.backbones.base import BackboneFamily, Inputs, Piece, Processor
from vlm4vla.config import BackboneConfig, Group
from vlm4vla.types import Image, refuse

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"


class Qwen3Processor(Processor):
    """Pictures become flat patches in merge order, scaled to [-1, 1] (mean and std 0.5, the family's own values)."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> None:
        super().__init__(tokenizer, config, model_config, queries)
        vision = model_config.vision_config
        self.patch, self.merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self.frames = int(vision.temporal_patch_size)
        self.image_id = int(model_config.image_token_id)
        unit = self.patch * self.merge
        if config.image_size % unit:
            raise refuse(
                f"image_size {config.image_size} does not fit this model",
                possible=f"multiples of {unit} (patch {self.patch} x merge {self.merge})",
                todo=f"Set backbone.image_size to {max(unit, round(config.image_size / unit) * unit)}.",
            )

    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:
        start = [Piece("<|im_start|>", True), Piece("user\n")]
        images = [Piece("<|vision_start|>" + IMAGE * n + "<|vision_end|>", True) for n in image_tokens]
        turn = [Piece("<|im_end|>", True), Piece("\n"), Piece("<|im_start|>", True), Piece("assistant\n")]
        return [*start, *images, Piece(sentence), *turn]

    def pictures(self, images: Sequence[Image]) -> tuple[Inputs, list[int]]:
        patches = [self.patchify(self.resize(image)) for image in images]
        side = self.config.image_size // self.patch
        grid = np.asarray([[1, side, side]] * len(images), dtype=np.int64)
        inputs = {"pixel_values": np.concatenate(patches), "image_grid_thw": grid}
        return inputs, [(side // self.merge) ** 2] * len(images)

    def patchify(self, image: Image) -> np.ndarray:
        """(H, W, 3) uint8 -> (H*W / patch^2, 3 * frames * patch^2) float32; equal to the library's PIL processor."""
        p, m = self.patch, self.merge
        gh, gw = image.shape[0] // p, image.shape[1] // p
        blocks = image.reshape(gh // m, m, p, gw // m, m, p, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        scaled = blocks.astype(np.float32).reshape(gh * gw, 3, 1, p * p) / 127.5 - 1.0
        return np.repeat(scaled, self.frames, axis=2).reshape(gh * gw, -1)

    def stack(self, samples: Sequence[Inputs], length: int) -> dict[str, Tensor]:
        batch = self.pad(samples, length)
        for key in ("pixel_values", "image_grid_thw"):
            batch[key] = torch.from_numpy(np.concatenate([s[key] for s in samples]))
        batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_id).int()
        return batch


class Family(BackboneFamily):
    name = "qwen3_vl"
    model_types = ("qwen3_vl",)
    parameter_groups: ClassVar[tuple[tuple[str, Group], ...]] = (
        ("visual.merger.", "connector"),
        ("visual.deepstack_merger_list.", "connector"),
        ("visual.", "vision"),
        ("language_model.embed_tokens.", "embedding"),
        ("language_model.", "language"),
    )

    def preset(self, name: str) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
        if name != "tiny":
            raise refuse(f"Unknown preset {name!r}", given=name, possible=["tiny"], todo="Use preset:tiny.")
        tokenizer = tiny_tokenizer((*SPECIAL, IMAGE, VIDEO), pad="<|endoftext|>", eos="<|im_end|>")
        ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in (*SPECIAL, IMAGE, VIDEO)}
        config = Qwen3VLConfig(
            text_config={
                "vocab_size": (len(tokenizer) // 64 + 1) * 64,
                "hidden_size": 256,
                "intermediate_size": 768,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 64,
                "max_position_embeddings": 1024,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [12, 10, 10]},
            },
            vision_config={
                "depth": 4,
                "hidden_size": 192,
                "intermediate_size": 768,
                "num_heads": 3,
                "patch_size": 16,
                "temporal_patch_size": 1,
                "out_hidden_size": 256,
                "num_position_embeddings": 36,
                "deepstack_visual_indexes": [1, 2],
            },
            image_token_id=ids[IMAGE],
            video_token_id=ids[VIDEO],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
            tie_word_embeddings=True,
        )
        return config, tokenizer

    def processor(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> Processor:
        return Qwen3Processor(tokenizer, config, model_config, queries)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        return [*model.visual.blocks, *model.language_model.layers]  # type: ignore[union-attr, misc]
