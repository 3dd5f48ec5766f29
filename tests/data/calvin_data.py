"""Made-up CALVIN recordings: plausible trajectories and noise for pictures. There are no real CALVIN frames here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm4vla.data.formats import calvin_layout as layout
from vlm4vla.data.formats.calvin_rule import reached
from vlm4vla.data.readers.calvin import Reader
from vlm4vla.data.writers.calvin import Recording, Writer


def recording(number: int, length: int, scene: str = "calvin_scene_D", states: np.ndarray | None = None) -> Recording:
    """A smooth walk of the tool centre point, its first Euler angle near pi as CALVIN's, that wraps round at pi.

    Some steps are faster than a relative action can say. ``states`` (length + 1, 15): a recorded walk instead.
    """
    random = np.random.default_rng(number)
    if states is None:
        states = random.normal(0, 0.3, (length + 1, 15))
        states[:, :3] = np.array([0.03, -0.23, 0.57]) + random.normal(0, 0.012, (length + 1, 3)).cumsum(0)
        angles = np.array([3.12, -0.03, 1.5]) + random.normal(0, 0.03, (length + 1, 3)).cumsum(0)
        states[:, 3:6] = (angles + np.pi) % (2 * np.pi) - np.pi
        states[:, 14] = np.where(np.sin(np.arange(length + 1) / 3 + number) > 0, 1, -1)
    return Recording(
        instruction=f"push the button {number % 3}",
        task=f"turn_on_led_{number % 3}",
        scene=scene,
        images={
            "static": random.integers(0, 256, (length, 200, 200, 3), dtype=np.uint8),
            "gripper": random.integers(0, 256, (length, 84, 84, 3), dtype=np.uint8),
        },
        actions=reached(states),
        robot_obs=states[:-1],
        scene_obs=random.normal(size=(length, 24)),
    )


def dataset(
    root: Path, lengths: Sequence[int] = (4, 1, 6), scenes: Sequence[str] = (), split: str = "training"
) -> Reader:
    """A finished split of made-up recordings of the given lengths."""
    out = Writer(root, split=split, section={"benchmark": "made-up"})
    for number, length in enumerate(lengths):
        out.stage(f"{number:04d}", recording(number, length, scenes[number] if scenes else "calvin_scene_D"))
    out.finish()
    return Reader(root, split=split)


def annotations(root: Path) -> tuple[Path, dict[str, Any]]:
    file = root / "training" / layout.ANNOTATIONS
    return file, np.load(file, allow_pickle=True).item()


def alter(file: Path, **changes: object) -> None:
    with np.load(file) as arrays:
        frame = dict(arrays) | changes
    np.savez_compressed(file, **{name: value for name, value in frame.items() if value is not None})
