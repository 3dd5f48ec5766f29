"""Qwen3-VL, dense: 2B, 4B, 8B. DeepStack and interleaved M-RoPE are the library's own.

Prompt: the family's chat template for one user turn (no system turn by default), as published with
Qwen/Qwen3-VL-4B-Instruct (``chat_template.json``); the golden test holds it. Positions come from ``input_ids`` and
``mm_token_type_ids`` (0 text, 1 image), which the model requires.

The published processor enlarges what has less than 256 x 256 pixels. Here ``image_size`` decides: 224 gives 49 image
tokens, 256 the 64 that the published processor would give for the same picture.
"""

from vlm4vla.backbones._qwen_vl import PatchProcessor, QwenFamily


class Qwen3Processor(PatchProcessor):
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)


class Family(QwenFamily):
    name = "qwen3_vl"
    model_types = ("qwen3_vl",)
    processor = Qwen3Processor
