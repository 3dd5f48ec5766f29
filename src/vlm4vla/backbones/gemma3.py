"""Gemma 3 with pictures (4B and up): SigLIP features pooled to a fixed grid, sliding and full layers in turn.

Prompt: the chat template of google/gemma-3-4b-it (no system turn by default). A picture in it is ``<start_of_image>``,
which ``Gemma3Processor`` widens to two newlines, the image tokens between their marks, and two newlines. Image
tokens have token type 1 and read their own picture in both directions; everything else is causal.
The published resize is bilinear; here, as in every family, it is the declared bicubic one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from vlm4vla.backbones._gemma import BOS, EOS, PAD, GemmaFamily, TypedProcessor
from vlm4vla.backbones.processor import Piece

IMAGE, IMAGE_START, IMAGE_END = "<image_soft_token>", "<start_of_image>", "<end_of_image>"
TURN, TURN_END = "<start_of_turn>", "<end_of_turn>"


class ChatProcessor(TypedProcessor):
    image_token = IMAGE

    def image_tokens(self) -> int:
        return int(self.model_config.mm_tokens_per_image)

    def marked_id(self) -> int:
        return self.image_id

    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:
        pieces, text = [Piece(BOS + TURN, True)], "user\n"
        for n in image_tokens:
            # One piece: the vocabulary has a token for every number of newlines in a row.
            pieces += [Piece(text + "\n\n"), Piece(IMAGE_START + IMAGE * n + IMAGE_END, True)]
            text = "\n\n"
        pieces += [Piece(text + sentence.strip()), Piece(TURN_END, True), Piece("\n")]
        return [*pieces, Piece(TURN, True), Piece("model\n")]


class Family(GemmaFamily):
    name = "gemma3"
    model_types = ("gemma3",)
    processor = ChatProcessor
    special_tokens = (PAD, EOS, BOS, TURN, TURN_END, IMAGE_START, IMAGE_END, IMAGE)
    token_ids: ClassVar[Mapping[str, str]] = {
        **GemmaFamily.token_ids,
        "image_token_index": IMAGE,
        "boi_token_index": IMAGE_START,
        "eoi_token_index": IMAGE_END,
    }
    attention = "bidirectional-images"

    def complete_scratch(self, model: Any) -> None:
        """The library starts the projection at zero: pictures would be invisible, their encoder without gradient."""
        weight = model.multi_modal_projector.mm_input_projection_weight
        nn.init.normal_(weight, std=model.config.initializer_range)
