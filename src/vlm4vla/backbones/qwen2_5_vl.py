"""Qwen2.5-VL: 3B, 7B. Window attention in the vision encoder and M-RoPE are the library's own.

Prompt: the chat template that was published with Qwen/Qwen2.5-VL-3B-Instruct; it writes a system turn where the user
gives none. Pixels: mean and deviation of CLIP. ``mm_token_type_ids`` must be given: without them the library counts
plain positions and says nothing.
"""

from typing import ClassVar

from vlm4vla.backbones._qwen_vl import PatchProcessor, QwenFamily


class Qwen25Processor(PatchProcessor):
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)
    system: ClassVar[str | None] = "You are a helpful assistant."


class Family(QwenFamily):
    name = "qwen2_5_vl"
    model_types = ("qwen2_5_vl",)
    processor = Qwen25Processor
