"""What the Qwen-VL families share: flat patches in merge order, ChatML, token types for M-RoPE."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla.backbones.base import BackboneFamily
from vlm4vla.backbones.processor import Inputs, Piece, Processor, Side
from vlm4vla.schemas import BackboneConfig, Group
from vlm4vla.types import Image

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"


class PatchProcessor(Processor):
    """Pictures as ``pixel_values`` (patches, 3 * frames * patch^2) and their ``image_grid_thw`` (pictures, 3)."""

    image_token = IMAGE
    system: ClassVar[str | None] = None
    """The system turn that the family's template writes when the user gives none."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> None:
        super().__init__(tokenizer, config, model_config, queries)
        vision = model_config.vision_config
        self.patch, self.merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self.frames = int(vision.temporal_patch_size)
        unit = self.patch * self.merge
        self.require_size(
            config.image_size % unit == 0,
            f"multiples of {unit} (patch {self.patch} x merge {self.merge})",
            max(unit, round(config.image_size / unit) * unit),
        )

    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:
        system = [] if self.system is None else turn("system", [Piece(self.system)])
        images = [Piece("<|vision_start|>" + IMAGE * n + "<|vision_end|>", True) for n in image_tokens]
        return [*system, *turn("user", [*images, Piece(sentence)]), *turn("assistant", None)]

    def pictures(self, images: Sequence[Image]) -> tuple[Inputs, list[int]]:
        patches = [self.patchify(image) for image in images]
        side = self.config.image_size // self.patch
        grid = np.asarray([[1, side, side]] * len(images), dtype=np.int64)
        inputs = {"pixel_values": np.concatenate(patches), "image_grid_thw": grid}
        return inputs, [(side // self.merge) ** 2] * len(images)

    def patchify(self, image: Image) -> np.ndarray:
        """(H, W, 3) uint8 -> (H*W / patch^2, 3 * frames * patch^2) float32; equal to the library's PIL processor."""
        p, m = self.patch, self.merge
        gh, gw = image.shape[0] // p, image.shape[1] // p
        # Bytes are put in order before they become four times as many.
        blocks = image.reshape(gh // m, m, p, gw // m, m, p, 3).transpose(0, 3, 1, 4, 6, 2, 5).reshape(gh * gw, 3, p, p)
        return np.repeat(self.normalise(blocks)[:, :, None], self.frames, axis=2).reshape(gh * gw, -1)

    def seen(self, inputs: Inputs) -> list[Image]:
        p, m = self.patch, self.merge
        pictures, start = [], 0
        for _, gh, gw in inputs["image_grid_thw"].tolist():
            patches = inputs["pixel_values"][start : start + gh * gw].reshape(gh * gw, 3, self.frames, p, p)[:, :, 0]
            blocks = patches.reshape(gh // m, gw // m, m, m, 3, p, p).transpose(0, 2, 5, 1, 3, 6, 4)
            pictures.append(self.denormalise(blocks.reshape(gh * p, gw * p, 3)))
            start += gh * gw
        return pictures

    def stack(self, samples: Sequence[Inputs], length: int, side: Side) -> dict[str, Tensor]:
        batch = self.pad(samples, length, side)
        for key in ("pixel_values", "image_grid_thw"):
            batch[key] = torch.from_numpy(np.concatenate([s[key] for s in samples]))
        batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_id).int()
        return batch


def turn(role: str, content: Sequence[Piece] | None) -> list[Piece]:
    """A ChatML turn, closed and with its newline; ``None`` leaves it open for the model to speak."""
    start = [Piece("<|im_start|>", True), Piece(f"{role}\n")]
    return start if content is None else [*start, *content, Piece("<|im_end|>", True), Piece("\n")]


class QwenFamily(BackboneFamily):
    """Groups, tokens and positions are the same in all of them."""

    special_tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", IMAGE, VIDEO)
    pad_token, eos_token = "<|endoftext|>", "<|im_end|>"
    token_ids: ClassVar[Mapping[str, str]] = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    parameter_groups: ClassVar[tuple[tuple[str, Group], ...]] = (
        ("visual.merger.", "connector"),
        ("visual.deepstack_merger_list.", "connector"),
        ("visual.", "vision"),
        ("language_model.embed_tokens.", "embedding"),
        ("language_model.", "language"),
    )
    block_lists = ("visual.blocks", "language_model.layers")
    vision_in_paper: ClassVar[tuple[Group, ...]] = ("vision", "connector")

    def positions(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """M-RoPE: time, height and width of every token."""
        found: Tensor = model.get_rope_index(  # type: ignore[operator]
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )[0]
        return found
