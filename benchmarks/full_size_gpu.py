"""Full-size VLMs with random weights on a GPU: one training step (forward, backward) in bfloat16, time and memory.

    python benchmarks/full_size_gpu.py [--batch 16] [--repeats 10] [qwen3_vl:2b qwen2_5_vl:3b paligemma:3b-224]

Prints one JSON line per model: seconds per step (median over the repeats after two warm-up steps) and peak memory. The
weights are random and the prompt comes from the presets' small tokenizer; neither changes the arithmetic. The ceiling
printed beside it is the same model's own forward and backward on the same inputs without query, head and hook.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vlm4vla import anatomy
from vlm4vla.backbones import loading
from vlm4vla.policy import Policy

MODELS = ["qwen3_vl:2b", "qwen2_5_vl:3b", "paligemma:3b-224"]


def build(name: str) -> Policy:
    """A policy with random bfloat16 weights on the GPU."""
    config = anatomy.parse(name).model_copy(update={"dtype": "bfloat16"})
    return Policy(*anatomy.parts(config, 10, loading.load(config, 1, seed=0))).to("cuda")


def timed(step: Callable[[], Tensor], repeats: int) -> float:
    for _ in range(2):
        step().backward()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step().backward()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure(name: str, batch: int, repeats: int) -> dict[str, object]:
    policy = build(name).train()
    processor = policy.backbone.processor
    card = anatomy.test_card(policy.image_size)
    samples = [processor.prepare([card], f"open the drawer number {i}") for i in range(batch)]
    inputs = {key: value.cuda() for key, value in processor.collate(samples).items()}
    actions = torch.zeros(batch, policy.chunk, policy.action_spec.size, device="cuda")
    whole = inputs | {"actions": actions, "mask": torch.ones(actions.shape[:2], dtype=torch.bool, device="cuda")}

    def bare() -> Tensor:
        typed = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
        return policy.backbone.model(**typed, use_cache=False).last_hidden_state[:, -1].float().square().mean()

    torch.cuda.reset_peak_memory_stats()
    ours = timed(lambda: policy(whole)[0], repeats)
    peak = torch.cuda.max_memory_allocated() / 2**30
    ceiling = timed(bare, repeats)
    return {
        "model": name,
        "batch": batch,
        "tokens": int(inputs["input_ids"].shape[1]),
        "parameters": sum(p.numel() for p in policy.parameters()),
        "step_s": round(ours, 4),
        "bare_model_step_s": round(ceiling, 4),
        "ratio": round(ours / ceiling, 3),
        "peak_gib": round(peak, 2),
        "gpu": torch.cuda.get_device_name(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=10)
    a = parser.parse_args()
    for name in a.models:
        print(json.dumps(measure(name, a.batch, a.repeats)), flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
