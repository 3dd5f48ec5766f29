"""SmolVLM2: 256M, 500M, 2.2B.

Prompt: one user turn of the chat template in ``tokenizer_config.json`` of HuggingFaceTB/SmolVLM2-2.2B-Instruct, the
picture first; the golden test holds it. The published processor splits a picture into tiles by default; here each is
one view. Every row of the embedding has a token, so the query takes a reserved one.

The 2.2B encoder is called a 384: its patches of 14 cover 378 pixels and the library drops the rest without a word.
378 gives the same 27 x 27 patches and the published 81 image tokens, and every pixel is seen.
"""

from collections.abc import Mapping
from typing import ClassVar

from vlm4vla.backbones._pixel_shuffle import END, FRAME, IMAGE, VIEW, ShuffleFamily, ShuffleProcessor
from vlm4vla.backbones.processor import Piece

OPENING, PAD, SPARE = "<|im_start|>", "<|im_end|>", "<|reserved_special_token_0|>"


class SmolVLMProcessor(ShuffleProcessor):
    opening = OPENING
    view = Piece(VIEW, True)
    spare_tokens = (SPARE,)


class Family(ShuffleFamily):
    name = "smolvlm"
    model_types = ("smolvlm",)
    processor = SmolVLMProcessor
    special_tokens = (OPENING, PAD, VIEW, FRAME, IMAGE, SPARE, END)
    pad_token = PAD
    token_ids: ClassVar[Mapping[str, str]] = {
        "image_token_id": IMAGE,
        "text_config.bos_token_id": OPENING,
        "text_config.eos_token_id": END,
        "text_config.pad_token_id": PAD,
    }
