"""InternVL in the library's own form (``...-HF`` checkpoints): InternViT, pixel shuffle, MLP, and a Qwen3 or Qwen2.

Prompt: ChatML without a system turn, as the authors' conversion script writes it: the picture between ``<img>`` and
``</img>``, a newline, the text. A picture is one tile, stretched to the square that the encoder sees; the published
processor cuts it into up to 12 tiles and a thumbnail, which a policy cannot pay. The encoder interpolates its positions
to other sizes than 448.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla.backbones._qwen_vl import turn
from vlm4vla.backbones.base import BackboneFamily
from vlm4vla.backbones.processor import Piece, PlaneProcessor
from vlm4vla.schemas import BackboneConfig, Group

IMAGE = "<IMG_CONTEXT>"


class InternVLProcessor(PlaneProcessor):
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    image_token = IMAGE

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> None:
        super().__init__(tokenizer, config, model_config, queries)
        patch, merge = int(model_config.vision_config.patch_size[0]), round(1 / model_config.downsample_ratio)
        self.unit = patch * merge
        self.require_size(
            config.image_size % self.unit == 0,
            f"multiples of {self.unit} (patch {patch} x merge {merge})",
            max(self.unit, round(config.image_size / self.unit) * self.unit),
        )

    def image_tokens(self) -> int:
        return int((self.config.image_size // self.unit) ** 2)

    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:
        content = []
        for n in image_tokens:
            content += [Piece("<img>" + IMAGE * n + "</img>", True), Piece("\n")]
        content[-1] = Piece("\n" + sentence)
        return [*turn("user", content), *turn("assistant", None)]


class Family(BackboneFamily):
    name = "internvl"
    model_types = ("internvl",)
    processor = InternVLProcessor
    special_tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", IMAGE)
    pad_token, eos_token = "<|endoftext|>", "<|im_end|>"
    token_ids: ClassVar[Mapping[str, str]] = {"image_token_id": IMAGE}
    parameter_groups: ClassVar[tuple[tuple[str, Group], ...]] = (
        ("vision_tower.", "vision"),
        ("multi_modal_projector.", "connector"),
        ("language_model.embed_tokens.", "embedding"),
        ("language_model.", "language"),
    )
    block_lists = ("vision_tower.encoder.layer", "language_model.layers")
