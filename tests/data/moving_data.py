"""Made-up episodes of a robot that moves as robots do, and that its camera sees: what a clean data set looks like."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vlm4vla.data.base import RawEpisode
from vlm4vla.data.build import build
from vlm4vla.data.store import Store
from vlm4vla.types import ActionSpec, CameraSpec, Dimension

SIZE, HZ = 32, 10.0
STATES = ("x_m", "y_m", "z_m", "yaw_rad", "gripper_opening")
CAMERAS = (CameraSpec("front", SIZE, SIZE), CameraSpec("wrist", SIZE, SIZE))
SPEC = ActionSpec(
    (
        *(Dimension(name, "m", "delta", "base", -0.1, 0.1) for name in ("dx", "dy", "dz")),
        Dimension("dyaw", "rad", "delta", "base", -0.3, 0.3),
        Dimension("gripper", "+1 open, -1 close", "gripper", "gripper", -1.0, 1.0),
    ),
    "euler_xyz",
    HZ,
)

Change = Callable[[RawEpisode], RawEpisode]


def _views(poses: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(N, SIZE, SIZE, 3): a bright spot where the hand is, before a still background."""
    background = random.uniform(20, 120, (SIZE, SIZE))
    grid = np.arange(SIZE)
    x, y = 16 + 40 * poses[:, 0, None, None], 16 + 40 * poses[:, 1, None, None]
    spot = np.exp(-((grid[None, None, :] - x) ** 2 + (grid[None, :, None] - y) ** 2) / 18)
    pictures = np.clip(background * (1 - spot) + 255 * spot, 0, 255).astype(np.uint8)
    return np.repeat(pictures[..., None], 3, axis=3)


def moving_episode(number: int, length: int = 60) -> RawEpisode:
    """Reaches, closes the gripper half-way, opens it at the end; speeds change from step to step."""
    random = np.random.default_rng(number)
    turns = np.linspace(0, 2 * np.pi, length)[:, None] * random.uniform(0.5, 1.5, 4) + random.uniform(0, 6, 4)
    arm = np.sin(turns) * random.uniform(0, 1, (length, 1)) ** 2 * np.array([0.06, 0.06, 0.03, 0.12])
    poses = np.cumsum(np.concatenate([np.zeros((1, 4)), arm[:-1]]), axis=0)
    command = np.ones(length)
    command[length // 2 : length - 6] = -1
    opening = np.ones(length)
    for t in range(1, length):
        opening[t] = np.clip(opening[t - 1] + 0.5 * command[t - 1], 0, 1)
    return RawEpisode(
        instruction=("lift the cup", "push the box", "open the lid")[number % 3],
        images={"front": _views(poses, random), "wrist": _views(-poses, random)},
        actions=np.concatenate([arm, command[:, None]], axis=1).astype(np.float32),
        states=np.concatenate([poses, opening[:, None]], axis=1).astype(np.float32),
        task=("lift", "push", "open")[number % 3],
        source=number,
    )


class Memory:
    """A reader over episodes in memory."""

    def __init__(self, episodes: Sequence[RawEpisode], spec: ActionSpec = SPEC) -> None:
        self.episodes, self.action_spec, self.cameras = list(episodes), spec, CAMERAS
        self.state_names = STATES if self.episodes[0].states is not None else ()

    def __len__(self) -> int:
        return len(self.episodes)

    def episode(self, index: int) -> RawEpisode:
        return self.episodes[index]

    def digest(self) -> str:
        return "made up"


def moving_store(
    folder: Path, change: Change | None = None, numbers: Sequence[int] = range(8), **more: object
) -> Store:
    """A store of moving episodes; ``change`` is applied to each of them."""
    episodes = [moving_episode(n) for n in numbers]
    return build(Memory([change(e) if change else e for e in episodes], **more), folder, SIZE, "png")  # type: ignore


def without_states(e: RawEpisode) -> RawEpisode:
    return replace(e, states=None)
