"""A tiny frame store with synthetic episodes, and the training configuration that goes with it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from vlm4vla import config as configs
from vlm4vla.data.base import RawEpisode
from vlm4vla.schemas import TrainConfig
from vlm4vla.types import ActionSpec, CameraSpec, Dimension

SPEC = ActionSpec(
    (
        *(Dimension(n, "1/100 m", "delta", "world", -1, 1) for n in ("dx", "dy", "dz")),
        Dimension("gripper", "", "gripper", "gripper", -1, 1),
    ),
    "none",
    20,
)


class SyntheticReader:
    """Episodes whose pictures show a bright square at the place that the action points to."""

    action_spec = SPEC
    cameras = (CameraSpec("front", 96, 96),)
    state_names = ("x", "y")

    def __len__(self) -> int:
        return 4

    def digest(self) -> str:
        return "synthetic"

    def episode(self, index: int) -> RawEpisode:
        rng = np.random.default_rng(index)
        n = 12 + index
        places = rng.integers(0, 80, (n, 2))
        images = np.zeros((n, 96, 96, 3), np.uint8)
        for image, (y, x) in zip(images, places, strict=True):
            image[y : y + 16, x : x + 16] = 255
        actions = np.zeros((n, 4), np.float32)
        actions[:, :2] = places / 40 - 1
        actions[:, 3] = np.where(places[:, 0] > 40, 1, -1)
        return RawEpisode(
            instruction="push the block" if index % 2 else "open the drawer",
            images={"front": images},
            actions=actions,
            states=(places / 80).astype(np.float32),
            task="push" if index % 2 else "open",
            source=index,
            info={},
        )


def train_config(store: Path, out: Path, **changes: object) -> TrainConfig:
    settings: dict[str, object] = {
        "policy": {
            "backbone": {"family": "qwen3_vl", "checkpoint": "preset:tiny", "init": "scratch", "image_size": 96},
            "chunk": 4,
            "cameras": ["front"],
            "normalizer": {"kind": "limits"},
        },
        "data": {"store": store, "augment": {"shift": 4}},
        "optimizer": {"lr": 5e-4, "warmup_steps": 2},
        "batch": 4,
        "steps": 6,
        "precision": "fp32",
        "checkpoint_every": 2,
        "log_every": 1,
        "threads": 1,
        "out": out,
    }
    return TrainConfig.model_validate({**settings, **changes})


def train_on_two_processes(config: TrainConfig, file: Path) -> None:
    """torchrun with gloo, by the command line; ``file`` gets the settings."""
    file.write_text(configs.to_yaml(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "-m", "vlm4vla.cli", "train", str(file)], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
