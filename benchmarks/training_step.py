"""CPU time of a small model's training step: patches as a matrix product, against the library's convolution.

    python benchmarks/training_step.py [--families qwen2_5_vl qwen3_vl qwen3_vl_moe] [--precision bf16] [--rounds 7]

The tiny presets at 96 pixels, one camera, batches of 32, one thread: the recipe of ``studies/tiny``. Both ways take
turns on the same weights and the same batch; medians over rounds, after one that warms up.
"""

import argparse
import contextlib
import statistics
import time

import torch

from vlm4vla import registry
from vlm4vla.backbones._patches import as_the_library
from vlm4vla.schemas import StudyTrain
from vlm4vla.train.probe import optimizer_step

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    bench = registry.find("bench", "metaworld").Benchmark()
    for family in given.families:
        recipe = StudyTrain.model_validate(
            {
                "policy": {
                    "backbone": {"family": family, "checkpoint": "preset:tiny", "init": "scratch", "image_size": 96},
                    "cameras": ["corner2"],
                    "chunk": 8,
                },
                "batch": 32,
                "steps": 200,
                "optimizer": {"lr": 5.0e-4, "weight_decay": 0.01, "warmup_steps": 50},
                "augment": {"shift": 2},
                "precision": given.precision,
                "threads": 1,
            }
        )
        policy, step = optimizer_step(recipe, bench.action_spec, bench.state_names)
        spent: dict[str, list[float]] = {"product": [], "convolution": []}
        for number in range(given.rounds + 1):
            for way, times in spent.items():
                with as_the_library(policy) if way == "convolution" else contextlib.nullcontext():
                    began = time.process_time()
                    step()
                    if number:
                        times.append(1000 * (time.process_time() - began))
        ours, theirs = (statistics.median(spent[way]) for way in ("product", "convolution"))
        print(f"{family} {given.precision}: {ours:.0f} ms a step, {theirs:.0f} convolved: {theirs / ours:.2f} times")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
