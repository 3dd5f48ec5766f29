"""Qwen3-VL, mixture of experts: 30B-A3B. Vision encoder, DeepStack, prompt and pixels are those of the dense models.

The experts of a layer are one tensor each for ``gate_up_proj`` and ``down_proj``; published checkpoints hold them with
the last two axes exchanged, and the library turns them when it loads. The router's load-balancing loss is not added.
"""

from vlm4vla.backbones._qwen_vl import PatchProcessor, QwenFamily


class MoeProcessor(PatchProcessor):
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)


class Family(QwenFamily):
    name = "qwen3_vl_moe"
    model_types = ("qwen3_vl_moe",)
    processor = MoeProcessor
