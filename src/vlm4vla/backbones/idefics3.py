"""Idefics3-8B-Llama3.

Prompt: one user turn of the published chat template, the picture first; the golden test holds it. ``<global-img>`` is
no token of this tokenizer: it is spelled in text. The tokenizer would write ``<|begin_of_text|>`` by itself; the
template has it already, so nothing is added. Every row of the embedding has a token, so the query takes one that Llama
reserves: 247 is the last one of Llama 3.1 and is free in Llama 3 too.
"""

from collections.abc import Mapping
from typing import ClassVar

from vlm4vla.backbones._pixel_shuffle import END, FRAME, IMAGE, VIEW, ShuffleFamily, ShuffleProcessor
from vlm4vla.backbones.processor import Piece

OPENING, PAD, SPARE = "<|begin_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_247|>"


class Idefics3Processor(ShuffleProcessor):
    opening = OPENING
    view = Piece(VIEW)
    spare_tokens = (SPARE,)


class Family(ShuffleFamily):
    name = "idefics3"
    model_types = ("idefics3",)
    processor = Idefics3Processor
    special_tokens = (OPENING, PAD, SPARE, FRAME, IMAGE, END)
    pad_token = PAD
    token_ids: ClassVar[Mapping[str, str]] = {
        "image_token_id": IMAGE,
        "text_config.bos_token_id": OPENING,
        "text_config.pad_token_id": PAD,
    }
