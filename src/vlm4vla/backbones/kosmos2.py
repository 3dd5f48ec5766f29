"""Kosmos-2: a CLIP encoder, a resampler to 64 latents, and a decoder with sinusoidal positions.

Prompt: ``<s><image>``, 64 slots, ``</image>`` and the text, as the library's ``processing_kosmos2.py`` writes it; there
is no chat template, and the ``<grounding>`` tag, which asks for boxes, is left out. Which tokens are image is said by
``image_embeds_position_mask`` alone. Positions are counted by the language model from the ids that are not the pad's,
so bare embeddings lose them at left padding. The published dropout of 0.1 is kept: it acts in training mode.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla.backbones.base import BackboneFamily
from vlm4vla.backbones.processor import Inputs, Piece, PlaneProcessor, Side
from vlm4vla.schemas import BackboneConfig, Group

# The library's processor writes the ordinary ids 4 to 67 into the slots. The picture's features overwrite their
# embeddings, so any id does; but an ordinary one can also stand in the text, and a tag that no prompt contains cannot.
SLOT = "</line>"


class Kosmos2Processor(PlaneProcessor):
    """``pixel_values``, and ``image_embeds_position_mask`` (B, T) int64: 1 where a latent of a picture goes."""

    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)
    image_token = SLOT
    answer_opening = " "
    # Every row of the published embedding has a token, so the query's place is marked by another such tag.
    spare_tokens = ("</chunk>",)

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> None:
        super().__init__(tokenizer, config, model_config, queries)
        native = int(model_config.vision_config.image_size)
        self.require_size(config.image_size == native, f"{native}, the size its encoder was built for", native)

    def image_tokens(self) -> int:
        return int(self.model_config.latent_query_num)

    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:
        images = [Piece("<image>" + SLOT * n + "</image>", True) for n in image_tokens]
        # A tag swallows the spaces before it, not those after it: the text begins with one, as in the library.
        return [Piece("<s>", True), *images, Piece(" " + sentence.strip())]

    def stack(self, samples: Sequence[Inputs], length: int, side: Side) -> dict[str, Tensor]:
        batch = super().stack(samples, length, side)
        batch["image_embeds_position_mask"] = (batch["input_ids"] == self.image_id).long()
        return batch


class Family(BackboneFamily):
    name = "kosmos2"
    model_types = ("kosmos-2",)
    processor = Kosmos2Processor
    special_tokens = (
        *("<s>", "<pad>", "</s>", "<unk>", "</doc>", "<image>", "</image>", "</chunk>", "</line>"),
        *("<phrase>", "</phrase>", "<object>", "</object>", "</delimiter_of_multi_objects/>", "<grounding>"),
    )
    pad_token, eos_token = "<pad>", "</s>"
    token_ids: ClassVar[Mapping[str, str]] = {
        "text_config.pad_token_id": "<pad>",
        "text_config.bos_token_id": "<s>",
        "text_config.eos_token_id": "</s>",
    }
    parameter_groups: ClassVar[tuple[tuple[str, Group], ...]] = (
        ("vision_model.", "vision"),
        ("image_to_text_projection.", "connector"),
        ("text_model.model.embed_tokens.", "embedding"),
        ("text_model.", "language"),
    )
    block_lists = ("vision_model.model.encoder.layers", "text_model.model.layers")

    def positions(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Tokens are counted from the pad's id plus one, and pads are not."""
        pad = int(model.config.text_config.pad_token_id)  # type: ignore[union-attr, arg-type]
        real = (inputs["input_ids"] != pad).long()
        return (real.cumsum(dim=1) * real + pad)[None]
