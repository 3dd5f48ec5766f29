"""PaliGemma and PaliGemma 2: SigLIP features before a Gemma or Gemma-2 prefix that is read in both directions.

Prompt: no chat template. Image tokens, ``<bos>``, the sentence and a newline are the prefix (token type 0), as
``PaliGemmaProcessor`` lays them out. The query is the suffix (token type 1), where pretraining had the answer: it reads
the whole prefix, and no state of the prefix depends on it. Positions count from 1. Published image sizes are stretched
to the square, bicubic.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from vlm4vla.backbones._gemma import BOS, EOS, PAD, GemmaFamily, TypedProcessor
from vlm4vla.backbones.processor import Piece

IMAGE = "<image>"


class PrefixProcessor(TypedProcessor):
    image_token = IMAGE

    def image_tokens(self) -> int:
        return (self.config.image_size // int(self.model_config.vision_config.patch_size)) ** 2

    def marked_id(self) -> int:
        return self.query_id

    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:
        # The newline that ends the prefix was a token of its own in pretraining, whatever stands before it.
        return [Piece(IMAGE * sum(image_tokens) + BOS, True), Piece(sentence), Piece("\n")]


class Family(GemmaFamily):
    name = "paligemma"
    model_types = ("paligemma",)
    processor = PrefixProcessor
    special_tokens = (PAD, EOS, BOS, IMAGE)
    token_ids: ClassVar[Mapping[str, str]] = {**GemmaFamily.token_ids, "image_token_index": IMAGE}
    attention = "bidirectional-prefix"

    def positions(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """The library counts them from 1."""
        return super().positions(model, inputs) + 1
