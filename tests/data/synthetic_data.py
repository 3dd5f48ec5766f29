"""Small made-up episodes for the tests of the data room."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm4vla.data.base import RawEpisode
from vlm4vla.data.readers.lerobot_v3 import Reader
from vlm4vla.data.writers.lerobot_v3 import Writer
from vlm4vla.types import ActionSpec, CameraSpec, Dimension


def spec(arm: int = 3, gripper: bool = True, hz: float = 20.0) -> ActionSpec:
    dimensions = [Dimension(f"d{i}", "m", "delta", "base", -2.0, 2.0) for i in range(arm)]
    if gripper:
        dimensions.append(Dimension("gripper", "sense", "gripper", "gripper", -1.0, 1.0))
    return ActionSpec(tuple(dimensions), "none", hz)


def cameras(*names: str, size: tuple[int, int] = (8, 12)) -> tuple[CameraSpec, ...]:
    return tuple(CameraSpec(name, *size) for name in names)


def episode(
    number: int, length: int, action_spec: ActionSpec, views: Sequence[CameraSpec], states: int = 2
) -> RawEpisode:
    """Random pictures and actions that depend on ``number`` only."""
    random = np.random.default_rng(number)
    actions = random.uniform(-2, 2, (length, action_spec.size)).astype(np.float32)
    for g in action_spec.gripper:
        actions[:, g] = np.where(actions[:, g] > 0, 1, -1)
    return RawEpisode(
        instruction=f"do thing {number % 3}",
        images={v.name: random.integers(0, 256, (length, v.height, v.width, 3), dtype=np.uint8) for v in views},
        actions=actions,
        states=random.normal(size=(length, states)).astype(np.float32) if states else None,
        task=f"task-{number % 3}",
        source=100 + number,
        info={"seed": number, "first_success": length - 1},
    )


def writer(
    root: Path, action_spec: ActionSpec, views: tuple[CameraSpec, ...], states: int = 2, **section: Any
) -> Writer:
    names = tuple(f"s{i}" for i in range(states))
    return Writer(root, action_spec=action_spec, cameras=views, state_names=names, section=section)


def dataset(root: Path, lengths: Sequence[int] = (5, 1, 9), names: Sequence[str] = ("front", "wrist")) -> Reader:
    """A finished data set of random episodes of the given lengths."""
    action_spec, views = spec(), cameras(*names)
    out = writer(root, action_spec, views, benchmark="toy-v1")
    for number, length in enumerate(lengths):
        out.add(f"{number:04d}", episode(number, length, action_spec, views))
    out.finish()
    return Reader(root)
