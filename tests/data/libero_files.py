"""Made-up LIBERO demonstration files: as the official script lays them out, with pictures that show their row."""

import json
from pathlib import Path

import h5py
import numpy as np

SIZE = 32


def picture(row: int, size: int = SIZE) -> np.ndarray:
    """Upright: a bright top, a red left side, and the row's number as its blue."""
    out = np.full((size, size, 3), 40, np.uint8)
    out[: size // 4, :, 1] = 220
    out[:, : size // 4, 0] = 200
    out[..., 2] = row
    return out


def actions(seed: int, length: int) -> np.ndarray:
    """(N, 7) float64 as LIBERO has them: gripper -1 (open) in the first half, then +1 (closed)."""
    out = np.random.default_rng(seed).uniform(-0.9, 0.9, (length, 7))
    out[:, 6] = np.where(np.arange(length) < length // 2, -1.0, 1.0)
    return out


def official(
    folder: Path,
    task: str = "push_it",
    lengths: tuple[int, ...] = (6, 9),
    text: str | None = "push it",
    size: int = SIZE,
) -> Path:
    """One task's file with the members and attributes of LIBERO's scripts/create_dataset.py."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task}_demo.hdf5"
    with h5py.File(path, "w") as f:
        data = f.create_group("data")
        if text is not None:
            data.attrs["problem_info"] = json.dumps({"problem_name": "toy", "language_instruction": text})
            data.attrs["macros_image_convention"] = "opengl"
        data.attrs["env_args"] = json.dumps({"type": 1, "env_kwargs": {}})
        data.attrs["num_demos"], data.attrs["total"] = len(lengths), sum(lengths)
        for n, length in enumerate(lengths):
            random = np.random.default_rng(100 + n)
            demo = data.create_group(f"demo_{n}")
            demo.attrs["num_samples"] = length
            pose = random.normal(size=(length, 6))
            members = {
                "actions": actions(n, length),
                "states": random.normal(size=(length, 47)),
                "robot_states": random.normal(size=(length, 9)),
                "rewards": np.eye(length, dtype=np.uint8)[-1],
                "dones": np.eye(length, dtype=np.uint8)[-1],
                "obs/ee_states": pose,
                "obs/ee_pos": pose[:, :3],
                "obs/ee_ori": pose[:, 3:],
                "obs/gripper_states": random.normal(size=(length, 2)),
                "obs/joint_states": random.normal(size=(length, 7)),
                "obs/agentview_rgb": np.stack([picture(t, size)[::-1, ::-1] for t in range(length)]),
                "obs/eye_in_hand_rgb": np.stack([picture(t + 100, size)[::-1, ::-1] for t in range(length)]),
            }
            for name, values in members.items():
                demo.create_dataset(name, data=values)
    return path
