"""LLaVA-1.5 (CLIP encoder, two-layer projector, Llama), as somebody outside would add it.

Prompt: ``USER: <image>`` newline, the sentence, ``ASSISTANT:``, as on the model card of llava-hf/llava-1.5-7b-hf.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla.backbones.base import BackboneFamily
from vlm4vla.backbones.processor import Piece, PlaneProcessor
from vlm4vla.schemas import BackboneConfig, Group


class LlavaProcessor(PlaneProcessor):
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)
    image_token = "<image>"

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> None:
        super().__init__(tokenizer, config, model_config, queries)
        vision = model_config.vision_config
        self.side = vision.image_size // vision.patch_size
        self.require_size(config.image_size == vision.image_size, f"{vision.image_size}", vision.image_size)

    def image_tokens(self) -> int:
        return int(self.side**2)

    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:
        images = [piece for n in image_tokens for piece in (Piece("<image>" * n, True), Piece("\n"))]
        return [Piece("<s>", True), Piece("USER: "), *images, Piece(f"{sentence} ASSISTANT:")]


class Family(BackboneFamily):
    name = "llava15"
    model_types = ("llava",)
    processor = LlavaProcessor
    special_tokens = ("<pad>", "<s>", "</s>", "<image>")
    pad_token, eos_token = "<pad>", "</s>"
    token_ids: ClassVar[Mapping[str, str]] = {"image_token_id": "<image>"}
    parameter_groups: ClassVar[tuple[tuple[str, Group], ...]] = (
        ("vision_tower.", "vision"),
        ("multi_modal_projector.", "connector"),
        ("language_model.embed_tokens.", "embedding"),
        ("language_model.", "language"),
    )
    block_lists = ("vision_tower.encoder.layers", "language_model.layers")
    # Features are taken before the last layer, so that one and the final norm are never reached.
    unused = ("vision_tower.encoder.layers.1.", "vision_tower.post_layernorm.")
