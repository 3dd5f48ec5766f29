"""What the Gemma VLMs share: a SigLIP encoder of one fixed size, token types that shape the mask, module names."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla.backbones.base import BackboneFamily
from vlm4vla.backbones.processor import Inputs, PlaneProcessor, Side
from vlm4vla.schemas import BackboneConfig, Group

PAD, EOS, BOS = "<pad>", "<eos>", "<bos>"


class TypedProcessor(PlaneProcessor):
    """Adds ``token_type_ids`` (B, T) int64: without them the mask is silently another one, causal or none at all."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> None:
        super().__init__(tokenizer, config, model_config, queries)
        side = int(model_config.vision_config.image_size)
        self.require_size(config.image_size == side, f"{side}, the one size its vision encoder has positions for", side)

    @abstractmethod
    def marked_id(self) -> int:
        """The id of the tokens of type 1; all other tokens, and pads, are of type 0."""

    def stack(self, samples: Sequence[Inputs], length: int, side: Side) -> dict[str, Tensor]:
        batch = super().stack(samples, length, side)
        batch["token_type_ids"] = (batch["input_ids"] == self.marked_id()).long()
        return batch


class GemmaFamily(BackboneFamily):
    """Groups, layers and the tokens of the text model are the same in all of them."""

    pad_token, eos_token = PAD, EOS
    token_ids: ClassVar[Mapping[str, str]] = {
        "text_config.pad_token_id": PAD,
        "text_config.eos_token_id": EOS,
        "text_config.bos_token_id": BOS,
    }
    parameter_groups: ClassVar[tuple[tuple[str, Group], ...]] = (
        ("vision_tower.", "vision"),
        ("multi_modal_projector.", "connector"),
        ("language_model.embed_tokens.", "embedding"),
        ("language_model.", "language"),
    )
    block_lists = ("vision_tower.encoder.layers", "language_model.layers")
